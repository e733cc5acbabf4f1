# Runs what hubtool wrote against the stand-ins, and says what it found, a line a fact:
#
#     elixir -pa EBIN run.exs notebook FILE
#     elixir -pa EBIN run.exs module FILE FOLDER
#     elixir -pa EBIN run.exs modules LIST       a file of folders, each with its case.ex
#
# Several such commands may follow each other, with -- between.
#
# A notebook's cells are what Markdown makes of it: lines between ```elixir and ```. Each must parse,
# and be laid out as `mix format` lays it out; then they run in order, as in Livebook.

defmodule Run do
  def notebook(path) do
    cells = path |> File.read!() |> String.split("\n") |> cells([], nil)
    IO.puts("cells #{length(cells)}")

    for {cell, place} <- Enum.with_index(cells) do
      Code.string_to_quoted!(cell)
      formatted = cell |> Code.format_string!() |> IO.iodata_to_binary()
      if formatted != String.trim_trailing(cell), do: IO.puts("unformatted #{place}")
    end

    [setup | others] = cells
    "Mix.install(" <> _ = setup

    Enum.reduce(others, [], fn cell, binding ->
      {_, binding} = Code.eval_string(cell, binding, file: Path.expand(path))
      binding
    end)
    |> then(fn binding -> facts(binding[:model], binding[:model_state], binding[:output]) end)
  end

  def module(path, folder) do
    formatted = path |> File.read!() |> Code.format_string!() |> IO.iodata_to_binary()
    if formatted <> "\n" != File.read!(path), do: IO.puts("unformatted")
    [{module, _}] = Code.compile_file(path)
    {model, state} = module.load(folder)
    {_, predict} = Axon.build(model)
    facts(model, state, predict.(state, module.template(3)))
    {:docs_v1, _, _, _, %{"en" => doc}, _, _} = docs(path)
    IO.puts("doc #{inspect(doc, limit: :infinity, printable_limit: :infinity)}")
  end

  def modules(list) do
    folders = list |> File.read!() |> String.split("\n")

    for folder <- folders do
      [{module, _}] = Code.compile_file(Path.join(folder, "case.ex"))
      {model, state} = module.load(folder)
      {_, predict} = Axon.build(model)
      predict.(state, module.template())
    end

    IO.puts("ran #{length(folders)}")
  end

  defp docs(path) do
    [{_, beam}] = Code.compile_file(path)
    {:ok, {_, [{'Docs', chunk}]}} = :beam_lib.chunks(beam, ['Docs'])
    :erlang.binary_to_term(chunk)
  end

  defp facts(model, state, output) do
    layers = Axon.layers(model)
    IO.puts("layers #{Enum.count(layers, &(&1.op not in [:input, :container]))}")
    IO.puts("parameters #{state.data |> Map.values() |> Enum.map(&map_size/1) |> Enum.sum()}")
    names = layers |> Enum.map(& &1.name) |> Enum.sort()
    IO.puts("names #{Base.encode16(:erlang.term_to_binary(Enum.join(names, <<0>>)))}")
    IO.puts("output #{inspect(if(is_struct(output), do: "one", else: Map.keys(output)))}")
  end

  defp cells([], found, nil), do: Enum.reverse(found)
  defp cells(["```elixir" | rest], found, nil), do: cells(rest, found, [])
  defp cells([_ | rest], found, nil), do: cells(rest, found, nil)

  defp cells(["```" | rest], found, lines),
    do: cells(rest, [lines |> Enum.reverse() |> Enum.join("\n") | found], nil)

  defp cells([line | rest], found, lines), do: cells(rest, found, [line | lines])
end

Code.compiler_options(docs: true, ignore_module_conflict: true)

System.argv()
|> Enum.chunk_by(&(&1 == "--"))
|> Enum.each(fn
  ["--"] -> :ok
  ["notebook", path] -> Run.notebook(path)
  ["module", path, folder] -> Run.module(path, folder)
  ["modules", list] -> Run.modules(list)
end)
