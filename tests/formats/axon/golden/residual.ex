defmodule Tiny do
  @moduledoc """
  tiny

  The model tiny as hubtool converted it from ONNX: 6 layers with 272 parameters.

  Needs Axon from 0.7 on and the package `safetensors`:

      {model, model_state} = Tiny.load("path/to/folder")
      {_init_fn, predict_fn} = Axon.build(model)
      predict_fn.(model_state, %{"data" => tensor})

  Channels come first: a picture is `{batch, channels, height, width}`.
  """

  # The weights files, and the SHA-256 that each must have.
  @files [
    {"model.safetensors", "2a404e4f30488ff7486991eaba43f4c38f26d784d1e43a74bb2e39ca150d8c81"}
  ]

  # {layer, parameter, tensor of the file, its shape, its type}
  @wanted [
    {"stem.conv", "kernel", "stem.conv.weight", {4, 3, 3, 3}, {:f, 32}},
    {"stem.bn", "gamma", "stem.bn.weight", {4}, {:f, 32}},
    {"stem.bn", "beta", "stem.bn.bias", {4}, {:f, 32}},
    {"stem.bn", "mean", "stem.bn.running_mean", {4}, {:f, 32}},
    {"stem.bn", "var", "stem.bn.running_var", {4}, {:f, 32}},
    {"block.conv", "kernel", "block.conv.weight", {4, 4, 3, 3}, {:f, 32}},
    {"block.conv", "bias", "block.conv.bias", {4}, {:f, 32}}
  ]

  # Tensors of the file that stand as plain numbers in the calls of `model/0`.
  @unused []

  @doc """
  The model: its graph of layers, without parameters.
  """
  def model do
    data = Axon.input("data", shape: {nil, 3, 8, 8})

    # Stage 1: 8 × 8
    stem_conv =
      Axon.conv(data, 4,
        kernel_size: {3, 3},
        padding: [{1, 1}, {1, 1}],
        use_bias: false,
        channels: :first,
        name: "stem.conv"
      )

    stem_bn =
      Axon.batch_norm(stem_conv,
        epsilon: 1.0e-5,
        momentum: 0.9,
        channel_index: 1,
        name: "stem.bn"
      )

    stem_relu = Axon.relu(stem_bn, name: "stem.relu")

    block_conv =
      Axon.conv(stem_relu, 4,
        kernel_size: {3, 3},
        padding: [{1, 1}, {1, 1}],
        channels: :first,
        name: "block.conv"
      )

    block_add = Axon.add(block_conv, stem_relu, name: "block.add")

    # The head
    pool = Axon.global_avg_pool(block_add, keep_axes: true, channels: :first, name: "pool")

    pool
  end

  @doc """
  The inputs as templates, for `Axon.build/2` and `Axon.Display`.
  """
  def template(batch_size \\ 1) do
    %{"data" => Nx.template({batch_size, 3, 8, 8}, {:f, 32})}
  end

  @doc """
  The parameters as Axon keeps them, by layer and name, made of the tensors of the weights file.

  Raises `ArgumentError` with everything that is missing, surplus, or of another shape or type: Axon
  would fill the gaps with random numbers.
  """
  def params(tensors) do
    faults = Enum.flat_map(@wanted, &fault(&1, tensors))
    known = MapSet.new(@unused ++ Enum.map(@wanted, &elem(&1, 2)))
    surplus = for {name, _} <- tensors, name not in known, do: "#{name} belongs to no layer"

    if faults ++ surplus != [] do
      raise ArgumentError,
            "these weights do not fit this model:\n" <> Enum.join(faults ++ surplus, "\n")
    end

    Enum.reduce(@wanted, %{}, fn {layer, parameter, name, _shape, _type}, params ->
      tensor = turn({layer, parameter}, tensors[name])
      put_in(params, [Access.key(layer, %{}), parameter], tensor)
    end)
  end

  @doc """
  The model and its state, from the folder where the weights files lie.
  """
  def load(folder) do
    tensors =
      for {file, sha256} <- @files,
          {name, tensor} <- Safetensors.read!(checked!(Path.join(folder, file), sha256)),
          into: %{},
          do: {name, tensor}

    model = model()
    {init_fn, _predict_fn} = Axon.build(model)
    {model, init_fn.(template(), Axon.ModelState.new(params(tensors)))}
  end

  defp fault({_layer, _parameter, name, shape, type}, tensors) do
    case tensors do
      %{^name => tensor} ->
        found = {Nx.shape(tensor), Nx.type(tensor)}
        expected = {shape, type}

        if found == expected,
          do: [],
          else: ["#{name} is #{inspect(found)}, it should be #{inspect(expected)}"]

      %{} ->
        ["#{name} is missing"]
    end
  end

  # What is turned round, since Axon keeps it in another order.

  defp turn(_parameter, tensor), do: tensor

  defp checked!(path, sha256) do
    found =
      File.open!(path, [:read, :raw, :binary], fn file ->
        file |> digest(:crypto.hash_init(:sha256)) |> Base.encode16(case: :lower)
      end)

    if found != sha256 do
      raise ArgumentError, "#{path} has SHA-256 #{found}, and #{sha256} is wanted"
    end

    path
  end

  defp digest(file, hash) do
    case :file.read(file, 1_048_576) do
      {:ok, bytes} -> digest(file, :crypto.hash_update(hash, bytes))
      :eof -> :crypto.hash_final(hash)
    end
  end
end
