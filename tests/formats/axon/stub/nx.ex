# A stand-in for Nx: it knows the functions and options that our notebooks may use, refuses every
# other, and computes nothing but shapes, roughly. What is here must be in Nx 0.10 and later.

defmodule Nx.Tensor do
  defstruct shape: {}, type: {:f, 32}

  def fetch(tensor, index) when is_integer(index), do: {:ok, tensor}
end

defmodule Nx.BinaryBackend do
end

defmodule EXLA.Backend do
end

defmodule Torchx.Backend do
end

defmodule Nx do
  import Kernel, except: [max: 2, min: 2]
  alias Nx.Tensor

  # name => options; the first argument is a tensor, and the result is like it
  unary =
    ~w(abs acos acosh asin asinh atan atanh bitwise_not ceil cos cosh erf exp expm1 floor is_infinity
       is_nan log log1p logical_not negate rsqrt sigmoid sign sin sinh sqrt tan tanh)a

  binary =
    ~w(add bitwise_and bitwise_or bitwise_xor divide equal greater greater_equal left_shift less
       less_equal logical_and logical_or logical_xor max min multiply not_equal pow quotient
       remainder right_shift subtract)a

  folds = [
    argmax: [:axis, :keep_axis, :tie_break, :type],
    argmin: [:axis, :keep_axis, :tie_break, :type],
    argsort: [:axis, :direction, :stable, :type],
    cumulative_product: [:axis, :reverse],
    cumulative_sum: [:axis, :reverse],
    logsumexp: [:axes, :keep_axes, :exp_scaling_factor],
    mean: [:axes, :keep_axes],
    product: [:axes, :keep_axes],
    reduce_max: [:axes, :keep_axes],
    reduce_min: [:axes, :keep_axes],
    reverse: [:axes],
    squeeze: [:axes],
    sum: [:axes, :keep_axes]
  ]

  for name <- unary do
    def unquote(name)(x), do: tensor!(x)
  end

  for name <- binary do
    def unquote(name)(x, y), do: pick(tensor!(x), tensor!(y))
  end

  for {name, options} <- folds do
    def unquote(name)(x, opts \\ []) do
      Keyword.validate!(opts, unquote(options))
      tensor!(x)
    end
  end

  # Numbers broadcast to the tensor beside them.
  defp pick(%Tensor{shape: {}}, y), do: y
  defp pick(x, _), do: x

  defp tensor!(%Tensor{} = x), do: x
  defp tensor!(x) when is_number(x), do: %Tensor{}

  def tensor(data, opts \\ []) do
    opts = Keyword.validate!(opts, [:type, :names, :backend])
    %Tensor{shape: shape_of(data), type: type!(opts[:type] || guess(data))}
  end

  defp shape_of([first | _] = list),
    do: List.to_tuple([length(list) | Tuple.to_list(shape_of(first))])

  defp shape_of(x) when is_number(x) or x in [:infinity, :neg_infinity, :nan], do: {}

  defp guess([first | _]), do: guess(first)
  defp guess(x), do: if(is_integer(x), do: {:s, 32}, else: {:f, 32})

  defp type!({kind, bits} = type) when kind in [:f, :bf, :s, :u] and is_integer(bits), do: type
  defp type!(:u8), do: {:u, 8}

  def shape(x), do: tensor!(x).shape
  def type(x), do: tensor!(x).type
  def axis_size(x, axis), do: elem(tensor!(x).shape, rem(axis, tuple_size(x.shape)))

  def template(shape, type) when is_tuple(shape), do: %Tensor{shape: shape, type: type!(type)}

  def iota(shape, opts \\ []) when is_tuple(shape) do
    opts = Keyword.validate!(opts, [:axis, :type, :names, :backend])
    true = shape |> Tuple.to_list() |> Enum.all?(&(is_integer(&1) and &1 > 0))
    %Tensor{shape: shape, type: type!(opts[:type] || {:s, 32})}
  end

  def broadcast(x, shape) when is_tuple(shape), do: %{tensor!(x) | shape: shape}
  def reshape(x, shape) when is_tuple(shape), do: %{tensor!(x) | shape: sizes(shape)}

  defp sizes(shape) do
    sizes = Tuple.to_list(shape)
    true = Enum.count(sizes, &(&1 == :auto)) <= 1
    sizes |> Enum.map(&if(&1 == :auto, do: 2, else: &1)) |> List.to_tuple()
  end

  def transpose(x, opts \\ []) do
    opts = Keyword.validate!(opts, [:axes])
    shape = tensor!(x).shape
    axes = opts[:axes] || Enum.reverse(Enum.to_list(0..(tuple_size(shape) - 1)//1))
    %{x | shape: axes |> Enum.map(&elem(shape, &1)) |> List.to_tuple()}
  end

  def flatten(x), do: tensor!(x)
  def as_type(x, type), do: %{tensor!(x) | type: type!(type)}
  def new_axis(x, axis), do: %{tensor!(x) | shape: Tuple.insert_at(x.shape, axis, 1)}
  def tile(x, times) when is_list(times), do: tensor!(x)
  def select(condition, x, y), do: pick(tensor!(condition), pick(tensor!(x), tensor!(y)))

  def dot(x, y), do: dot(x, [-1], y, [Kernel.max(tuple_size(tensor!(y).shape) - 2, 0)])
  def dot(x, a, y, b), do: dot(x, a, [], y, b, [])

  def dot(x, a, i, y, b, j)
      when length(a) == length(b) and is_list(a) and length(i) == length(j) and is_list(i) do
    shared = Enum.map(i, &elem(tensor!(x).shape, &1))
    %{x | shape: List.to_tuple(shared ++ without(x, a ++ i) ++ without(tensor!(y), b ++ j))}
  end

  defp without(%Tensor{shape: shape}, axes) do
    gone = Enum.map(axes, &if(&1 < 0, do: &1 + tuple_size(shape), else: &1))
    for {size, axis} <- Enum.with_index(Tuple.to_list(shape)), axis not in gone, do: size
  end

  def concatenate([first | _] = tensors, opts) do
    Keyword.validate!(opts, [:axis])
    Enum.each(tensors, &tensor!/1)
    first
  end

  def stack([first | _] = tensors, opts) do
    Keyword.validate!(opts, [:axis])
    Enum.each(tensors, &tensor!/1)
    first
  end

  def pad(x, value, config) when is_list(config) do
    tensor!(value)
    true = Enum.all?(config, &match?({_, _, _}, &1))
    tensor!(x)
  end

  def slice(x, starts, lengths) when is_list(starts),
    do: %{tensor!(x) | shape: List.to_tuple(lengths)}

  def slice_along_axis(x, start, length, opts) when is_integer(start) and is_integer(length) do
    Keyword.validate!(opts, [:axis, :strides])
    tensor!(x)
  end

  def take(x, indices, opts) do
    Keyword.validate!(opts, [:axis])
    tensor!(indices)
    tensor!(x)
  end

  def take_along_axis(x, indices, opts) do
    Keyword.validate!(opts, [:axis])
    tensor!(indices)
    tensor!(x)
  end

  def gather(x, indices), do: pick(tensor!(x), tensor!(indices))
  def indexed_put(x, %Tensor{}, %Tensor{}), do: tensor!(x)
  def indexed_add(x, %Tensor{}, %Tensor{}), do: tensor!(x)

  def top_k(x, opts) do
    Keyword.validate!(opts, [:k])
    {tensor!(x), %{x | type: {:s, 32}}}
  end

  def window_sum(x, window, opts) when is_tuple(window) do
    Keyword.validate!(opts, [:padding, :strides, :window_dilations])
    tensor!(x)
  end

  def conv(x, %Tensor{}, opts) do
    Keyword.validate!(opts, [
      :strides,
      :padding,
      :input_dilation,
      :kernel_dilation,
      :feature_group_size
    ])

    tensor!(x)
  end

  def from_binary(binary, type) when is_binary(binary),
    do: %Tensor{shape: {byte_size(binary)}, type: type!(type)}

  def to_list(%Tensor{type: {:s, _}}), do: [0, 1]
  def to_list(%Tensor{}), do: [0.75, 0.25]
  def to_number(%Tensor{}), do: 1.0

  def default_backend, do: {Nx.BinaryBackend, []}
  def global_default_backend(backend), do: backend!(backend)

  def backend_copy(x, backend) do
    backend!(backend)
    x
  end

  def backend_transfer(x, backend) do
    backend!(backend)
    x
  end

  defp backend!({backend, opts}) when is_list(opts) do
    Keyword.validate!(opts, [:client, :device])
    backend!(backend)
  end

  defp backend!(backend) when backend in [Nx.BinaryBackend, EXLA.Backend, Torchx.Backend],
    do: backend
end
