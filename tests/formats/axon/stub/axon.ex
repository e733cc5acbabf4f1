# A stand-in for Axon: it records layers, refuses functions and options that Axon 0.8 does not have,
# and knows which parameters of which shape each layer wants.

defmodule Axon.ModelState do
  defstruct [:data, frozen: []]

  def new(data) when is_map(data), do: %__MODULE__{data: data}

  def freeze(%__MODULE__{data: data} = state, mask) do
    paths = for {layer, made} <- data, {name, _} <- made, do: [layer, name]
    %{state | frozen: Enum.filter(paths, mask)}
  end
end

defmodule Axon do
  defstruct [:id, :op, :name, :call, inputs: [], params: []]

  # Every function has `:name`; what else it may be given, and must be given.
  activations = [
    celu: [:alpha],
    elu: [:alpha],
    gelu: [],
    hard_sigmoid: [:alpha, :beta],
    hard_silu: [:alpha, :beta],
    leaky_relu: [:alpha],
    log_softmax: [:axis],
    mish: [],
    relu: [],
    relu6: [],
    selu: [:alpha, :gamma],
    sigmoid: [],
    silu: [],
    softmax: [:axis],
    softplus: [],
    softsign: [],
    tanh: [],
    flatten: [],
    dropout: [:rate],
    global_avg_pool: [:keep_axes, :channels],
    global_max_pool: [:keep_axes, :channels],
    max_pool: [:kernel_size, :strides, :padding, :dilations, :channels],
    avg_pool: [:kernel_size, :strides, :padding, :dilations, :channels]
  ]

  for {name, options} <- activations do
    def unquote(name)(%Axon{} = x, opts), do: made(unquote(name), [x], opts, unquote(options))
  end

  for name <- [:add, :subtract, :multiply] do
    def unquote(name)(%Axon{} = x, %Axon{} = y, opts), do: made(unquote(name), [x, y], opts, [])
  end

  defp made(op, inputs, opts, options, params \\ []) do
    opts = Keyword.validate!(opts, [:name | options])
    node(op, opts[:name], inputs, params, &like/1)
  end

  defp node(op, name, inputs, params, call) do
    id = System.unique_integer()
    %Axon{id: id, op: op, name: name!(name), inputs: inputs, params: params, call: call}
  end

  defp like([first | _]), do: first

  # Axon counts on where a name holds "{n}".
  defp name!(name) when is_binary(name), do: String.replace(name, "{n}", "0")
  defp name!(name) when is_function(name, 2), do: name.(:op, %{})

  def input(name, opts) do
    opts = Keyword.validate!(opts, [:shape])
    shape = opts[:shape] |> Tuple.to_list() |> Enum.map(&(&1 || 2)) |> List.to_tuple()
    node(:input, name, [], [], fn [] -> %Nx.Tensor{shape: shape} end)
  end

  def param(name, shape, opts) when is_binary(name) and is_tuple(shape) do
    opts = Keyword.validate!(opts, [:type, :initializer])
    %{param: name, shape: shape, type: opts[:type] || {:f, 32}}
  end

  def nx(%Axon{} = x, function, opts) when is_function(function, 1) do
    opts = Keyword.validate!(opts, [:name])
    node(:nx, opts[:name], [x], [], fn [x] -> function.(x) end)
  end

  def layer(function, inputs, opts) when is_function(function, length(inputs) + 1) do
    opts = Keyword.validate!(opts, [:name])
    params = for %{param: name, shape: shape, type: type} <- inputs, do: {name, shape, type}
    layers = Enum.filter(inputs, &is_struct(&1, Axon))

    call = fn given ->
      {[], args} =
        Enum.reduce(inputs, {given, []}, fn
          %Axon{}, {[x | rest], args} ->
            {rest, [x | args]}

          %{param: _} = p, {rest, args} ->
            {rest, [%Nx.Tensor{shape: p.shape, type: p.type} | args]}
        end)

      apply(function, Enum.reverse([[mode: :inference] | args]))
    end

    node(:custom, opts[:name], layers, params, call)
  end

  @window [:kernel_size, :strides, :padding, :kernel_dilation, :channels, :use_bias]

  def conv(%Axon{} = x, units, opts) do
    :first = opts[:channels]
    kernel = [units, :any | Tuple.to_list(opts[:kernel_size])]
    made(:conv, [x], opts, [:feature_group_size | @window], with_bias(kernel, units, opts))
  end

  def conv_transpose(%Axon{} = x, units, opts) do
    :first = opts[:channels]
    kernel = [units, :any | Tuple.to_list(opts[:kernel_size])]
    made(:conv_transpose, [x], opts, @window, with_bias(kernel, units, opts))
  end

  def dense(%Axon{} = x, units, opts),
    do: made(:dense, [x], opts, [:use_bias], with_bias([:any, units], units, opts))

  defp with_bias(kernel, units, opts) do
    kernel = {"kernel", List.to_tuple(kernel), {:f, 32}}
    if opts[:use_bias] == false, do: [kernel], else: [kernel, {"bias", {units}, {:f, 32}}]
  end

  def embedding(%Axon{} = x, rows, width, opts),
    do: made(:embedding, [x], opts, [], [{"kernel", {rows, width}, {:f, 32}}])

  def batch_norm(%Axon{} = x, opts) do
    params = for name <- ~w(gamma beta mean var), do: {name, {:any}, {:f, 32}}
    made(:batch_norm, [x], opts, [:epsilon, :momentum, :channel_index], params)
  end

  def layer_norm(%Axon{} = x, opts),
    do: made(:layer_norm, [x], opts, [:epsilon, :channel_index], gamma_and_beta())

  def group_norm(%Axon{} = x, groups, opts) when is_integer(groups),
    do: made(:group_norm, [x], opts, [:epsilon, :channel_index], gamma_and_beta())

  defp gamma_and_beta, do: for(name <- ~w(gamma beta), do: {name, {:any}, {:f, 32}})

  def reshape(%Axon{} = x, shape, opts) when is_tuple(shape) do
    sizes = shape |> Tuple.to_list() |> Enum.map(&if(&1 in [:batch, :auto], do: 2, else: &1))
    %{made(:reshape, [x], opts, []) | call: fn [x] -> %{x | shape: List.to_tuple(sizes)} end}
  end

  def transpose(%Axon{} = x, axes, opts) when is_list(axes), do: made(:transpose, [x], opts, [])

  def pad(%Axon{} = x, config, value, opts) when is_list(config) and is_number(value),
    do: made(:pad, [x], opts, [:channels])

  def concatenate([%Axon{} | _] = inputs, opts), do: made(:concatenate, inputs, opts, [:axis])

  def container(outputs) when is_map(outputs) do
    {names, layers} = Enum.unzip(outputs)
    call = fn given -> names |> Enum.zip(given) |> Map.new() end
    node(:container, "container", layers, [], call)
  end

  def build(%Axon{} = model, opts \\ []) do
    Keyword.validate!(opts, [:mode])
    {&init(model, &1, &2), fn %Axon.ModelState{}, %{} -> run(model) end}
  end

  # As Axon does, what is missing is made up; what has a wrong shape is not noticed by Axon, but here.
  defp init(model, %{}, %Axon.ModelState{data: given}) do
    layers = layers(model)
    names = for layer <- layers, layer.params != [], do: layer.name
    true = names == Enum.uniq(names)

    data =
      for %{params: [_ | _]} = layer <- layers, into: %{} do
        {layer.name,
         Map.new(layer.params, fn {name, shape, type} ->
           found = given[layer.name][name]
           if found, do: fits!(layer.name, name, found, shape, type)
           {name, found || %Nx.Tensor{shape: shape, type: type}}
         end)}
      end

    %Axon.ModelState{data: data}
  end

  defp fits!(layer, name, %Nx.Tensor{} = found, shape, type) do
    pairs = Enum.zip(Tuple.to_list(found.shape), Tuple.to_list(shape))
    same = tuple_size(found.shape) == tuple_size(shape)

    unless same and found.type == type and Enum.all?(pairs, fn {a, b} -> b in [a, :any] end),
      do: raise("#{name} of #{layer} is #{inspect(found)}, not #{inspect({shape, type})}")
  end

  def layers(model), do: model |> collect(%{}) |> Map.values()

  defp collect(%Axon{id: id}, seen) when is_map_key(seen, id), do: seen

  defp collect(%Axon{id: id, inputs: inputs} = layer, seen),
    do: Enum.reduce(inputs, Map.put(seen, id, layer), &collect/2)

  defp run(model), do: elem(run(model, %{}), 0)

  defp run(%Axon{id: id}, seen) when is_map_key(seen, id), do: {seen[id], seen}

  defp run(%Axon{id: id} = layer, seen) do
    {given, seen} = Enum.map_reduce(layer.inputs, seen, &run/2)
    result = layer.call.(given)
    {result, Map.put(seen, id, result)}
  end
end

defmodule Axon.Activations do
  def softmax(%Nx.Tensor{} = x, axis: _), do: x
end

defmodule Axon.Losses do
  def categorical_cross_entropy(%Nx.Tensor{}, %Nx.Tensor{} = y, opts) do
    Keyword.validate!(opts, [:from_logits, :reduction])
    y
  end
end

defmodule Axon.Display do
  def as_table(%Axon{}, %{}), do: "a table"
  def as_graph(%Axon{}, %{}), do: :graph
end

defmodule Axon.Loop do
  def trainer(%Axon{} = model, loss, :optimizer) when is_function(loss, 2), do: {model, loss}

  def run({%Axon{}, loss}, batches, %Axon.ModelState{frozen: [_ | _]} = state, opts) do
    Keyword.validate!(opts, [:epochs, :iterations, :compiler])
    [{%{}, answers}] = Enum.take(batches, 1)
    loss.(answers, answers)
    state
  end
end

defmodule Polaris.Optimizers do
  def adam(learning_rate: _), do: :optimizer
end
