# Opens a published revision with axon_hub.ex, as a stranger in Elixir would.
#
#     elixir axon_run.exs AXON_HUB.EX ENDPOINT ID REVISION CACHE PICTURES.f32 SIDE
#
# It fetches and verifies the model, and prints JSON: Elixir's version, the sha256 of the weights
# (each name, a line feed and its bytes, by name) and, where Nx and Axon are there (say, by
# ELIXIR_ERL_OPTIONS="-pa …"), the logits of PICTURES, float32 of shape {n, 1, SIDE, SIDE}.
[axon_hub, endpoint, id, revision, cache, pictures, side] = System.argv()
Code.require_file(axon_hub)
folder = AxonHub.download(id, endpoint: endpoint, revision: revision, cache_dir: cache)

{:ok, index} = AxonHub.SafeTensors.index(Path.join(folder, "model.safetensors"))

sha256 =
  index
  |> Enum.sort()
  |> Enum.reduce(:crypto.hash_init(:sha256), fn {name, entry}, hash ->
    :crypto.hash_update(hash, [name, "\n", AxonHub.SafeTensors.read!(entry)])
  end)
  |> :crypto.hash_final()
  |> Base.encode16(case: :lower)

logits =
  if Code.ensure_loaded?(Nx) and Code.ensure_loaded?(Axon) do
    {:ok, _} = Application.ensure_all_started(:axon)
    {model, state} = AxonHub.load(folder)
    {_init, predict} = Axon.build(model)
    side = String.to_integer(side)
    x = pictures |> File.read!() |> Nx.from_binary({:f, 32})
    predict.(state, Nx.reshape(x, {:auto, 1, side, side})) |> Nx.to_flat_list()
  end

shown = if logits, do: Enum.map_join(logits, ",", &to_string/1)
IO.puts(~s({"version": "#{System.version()}", "sha256": "#{sha256}", "logits": [#{shown}]}))
