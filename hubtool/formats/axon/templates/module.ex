defmodule $module do
  @moduledoc """
  $title

$about

  Needs Axon from 0.7 on and the package `safetensors`:

      {model, model_state} = $module.load("path/to/folder")
      {_init_fn, predict_fn} = Axon.build(model)
      predict_fn.(model_state, $inputs)

  Channels come first: a picture is `{batch, channels, height, width}`.
  """

  # The weights files, and the SHA-256 that each must have.
$files

  # {layer, parameter, tensor of the file, its shape, its type}
$wanted

  # Tensors of the file that stand as plain numbers in the calls of `model/0`.
$unused

  @doc """
  The model: its graph of layers, without parameters.
  """
  def model do
$model
  end

  @doc """
  The inputs as templates, for `Axon.build/2` and `Axon.Display`.
  """
  def template($batch_size \\ 1) do
$template
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
$turned
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
