defmodule AxonHub do
  @moduledoc """
  Opens the model folders of hubtool in Axon, fetches them from a hub, and writes Axon models back.

      folder = AxonHub.download("axon/resnet18-v1", endpoint: "http://hub.example:8000")
      {model, state} = AxonHub.load(folder)
      {_init, predict} = Axon.build(model)
      predict.(state, image)                          # image: {n, 3, 224, 224}, channels first

  This one file is all there is: put it into `lib/` of a project, or `Code.require_file/1` it in a
  script or a notebook. It wants Elixir 1.14, OTP 25, Nx 0.7 and Axon 0.6, or later ones of each,
  and nothing else; so it carries readers of its own for JSON and safetensors.

  A folder holds a graph of ONNX operators (hubtool's docs/format.md). A layer becomes the Axon
  layer of the same meaning where there is one (`Axon.conv`, `Axon.dense`, `Axon.batch_norm`, …),
  and an `Axon.layer` over Nx functions elsewhere. Arithmetic on shapes is done while the model is
  compiled, when all shapes are known, so no batch size is baked in. What a model needs and Axon
  cannot say is listed in one `AxonHub.Error`, all of it, before any weight is used.

  Nothing that a file holds becomes an atom or is evaluated.
  """

  alias AxonHub.{Build, Error, Export, Folder, Hub, Operators}

  @doc """
  The Axon model that a folder stores, and its state: `{model, state}`.

  The state is an `Axon.ModelState` (in Axon 0.6, which has none, a map of maps). Options:

    * `:verify` - compare the sha256 of the weights first (default `true`)

  Raises `AxonHub.Error` with everything that is wrong with the folder, or cannot be said in Axon.
  """
  def load(folder, opts \\ []) do
    opts = Keyword.validate!(opts, verify: true)
    folder |> Folder.read!(opts[:verify]) |> Build.build!(folder)
  end

  @doc "Everything that keeps a folder from being loaded, as sentences; `[]` if nothing does."
  def check(folder) do
    load(folder)
    []
  rescue
    error in Error -> error.problems
  end

  @doc "The names of the operators that `load/2` knows, sorted."
  def operators, do: Operators.names()

  @doc """
  Writes an Axon model and its state as `axon.json` and a safetensors file beside it.

  `path` is that of the JSON file, and neither file may be there yet. `hubtool import` makes a
  model folder of them. Raises `AxonHub.Error` that names every layer which is a function of one's
  own.
  """
  def export(model, state, path), do: Export.write!(model, state, path)

  @doc """
  The models of a hub that bear all these tags: maps with `"id"`, `"sha"`, `"tags"` and what else
  the hub tells. Options: `:endpoint`, `:token`, `:search`, `:author`, `:sort`, `:limit` (30).
  """
  def list_models(tags, opts \\ []), do: Hub.list(List.wrap(tags), opts)

  @doc """
  Fetches a model and returns the folder in which it lies. Options:

    * `:endpoint` - the hub (default `https://huggingface.co`)
    * `:revision` - branch, tag or commit (default `main`)
    * `:token` - sent to the endpoint's own host, and nowhere else
    * `:cache_dir` - where files are kept, apart for each hub and each commit
    * `:files` - the names of those wanted (default: graph.json and the weights that it lists)

  Files go straight to disk. Each is compared with the size and the hash that the hub states for
  it, and kept only if they agree; what is there already is compared again, not fetched.
  """
  def download(id, opts \\ []), do: Hub.download(id, opts)
end

defmodule AxonHub.Error do
  @moduledoc "What went wrong, every single problem, and what to do next."
  defexception [:message, problems: []]

  @doc "An error of that title whose message lists the problems."
  def new(title, problems, hint \\ nil) do
    lines = [title | Enum.map(problems, &("  - " <> &1))]
    %__MODULE__{message: Enum.join(lines ++ List.wrap(hint), "\n"), problems: problems}
  end
end

defmodule AxonHub.JSON do
  @moduledoc """
  JSON as RFC 8259 has it and nothing beyond: one meaning for every text, `{:error, why}` for the
  rest. Objects become maps with text as keys, `null` becomes `nil`. Key twice, half a surrogate
  pair, an integer beyond 2^53, a number that no float holds: refused.
  """

  @exact 9_007_199_254_740_992
  @deepest 512
  @longest 100_000_000

  @doc "The value that a text stands for: `{:ok, value}` or `{:error, reason}`."
  def decode(text) when byte_size(text) > @longest, do: {:error, "longer than 100,000,000 bytes"}

  def decode(text) do
    if String.valid?(text) do
      {value, rest} = value(space(text), 0)
      if space(rest) == "", do: {:ok, value}, else: {:error, "not JSON: more follows its end"}
    else
      {:error, "not UTF-8"}
    end
  catch
    {:json, reason} -> {:error, "not JSON: " <> reason}
  end

  defp space(<<c, rest::binary>>) when c in [?\s, ?\t, ?\n, ?\r], do: space(rest)
  defp space(rest), do: rest

  defp value(_, depth) when depth > @deepest, do: throw({:json, "nested too deeply"})
  defp value("{" <> rest, depth), do: object(space(rest), depth + 1)
  defp value("[" <> rest, depth), do: array(space(rest), depth + 1)
  defp value("\"" <> rest, _), do: string(rest, rest, 0, [])
  defp value("true" <> rest, _), do: {true, rest}
  defp value("false" <> rest, _), do: {false, rest}
  defp value("null" <> rest, _), do: {nil, rest}
  defp value(<<c, _::binary>> = rest, _) when c == ?- or c in ?0..?9, do: number(rest)
  defp value("", _), do: throw({:json, "it ends too early"})
  defp value(rest, _), do: throw({:json, "unexpected #{inspect(String.slice(rest, 0, 10))}"})

  defp object("}" <> rest, _), do: {%{}, rest}
  defp object(rest, depth), do: members(rest, depth, %{})

  defp members("\"" <> rest, depth, map) do
    {key, rest} = string(rest, rest, 0, [])
    if is_map_key(map, key), do: throw({:json, "the key #{inspect(key)} stands twice"})

    case space(rest) do
      ":" <> rest ->
        {value, rest} = value(space(rest), depth)
        map = Map.put(map, key, value)

        case space(rest) do
          "," <> rest -> members(space(rest), depth, map)
          "}" <> rest -> {map, rest}
          _ -> throw({:json, "an object does not end"})
        end

      _ ->
        throw({:json, "a key without a value"})
    end
  end

  defp members(_, _, _), do: throw({:json, "an object without a key"})

  defp array("]" <> rest, _), do: {[], rest}
  defp array(rest, depth), do: items(rest, depth, [])

  defp items(rest, depth, items) do
    {value, rest} = value(rest, depth)

    case space(rest) do
      "," <> rest -> items(space(rest), depth, [value | items])
      "]" <> rest -> {Enum.reverse(items, [value]), rest}
      _ -> throw({:json, "an array does not end"})
    end
  end

  # `from` is where the run of plain bytes that is being passed over began, `n` its length.
  defp string(<<?", rest::binary>>, from, n, parts) do
    {IO.iodata_to_binary(Enum.reverse(parts, [binary_part(from, 0, n)])), rest}
  end

  defp string(<<?\\, rest::binary>>, from, n, parts) do
    {char, rest} = escape(rest)
    string(rest, rest, 0, [char, binary_part(from, 0, n) | parts])
  end

  defp string(<<c, _::binary>>, _, _, _) when c < 32,
    do: throw({:json, "a bare control character"})

  defp string(<<_, rest::binary>>, from, n, parts), do: string(rest, from, n + 1, parts)
  defp string("", _, _, _), do: throw({:json, "a text does not end"})

  for {letter, char} <- [{?", ?"}, {?\\, ?\\}, {?/, ?/}, {?b, 8}, {?f, 12}, {?n, 10}, {?r, 13}] do
    defp escape(<<unquote(letter), rest::binary>>), do: {<<unquote(char)>>, rest}
  end

  defp escape("t" <> rest), do: {"\t", rest}
  defp escape(<<?u, hex::binary-size(4), rest::binary>>), do: unicode(code(hex), rest)
  defp escape(_), do: throw({:json, "an unknown escape"})

  defp unicode(high, <<"\\u", hex::binary-size(4), rest::binary>>) when high in 0xD800..0xDBFF do
    low = code(hex)
    if low not in 0xDC00..0xDFFF, do: throw({:json, "half of a surrogate pair"})
    {<<0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00::utf8>>, rest}
  end

  defp unicode(code, _) when code in 0xD800..0xDFFF,
    do: throw({:json, "half of a surrogate pair"})

  defp unicode(code, rest), do: {<<code::utf8>>, rest}

  defp code(hex) do
    if hex =~ ~r/\A[0-9a-fA-F]{4}\z/, do: String.to_integer(hex, 16), else: escape("")
  end

  defp number(text) do
    case Regex.run(~r/\A(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?/, head(text)) do
      [all, _] -> {integer(all), after_(text, all)}
      [all, whole, fraction] -> {float(whole, fraction, "e0"), after_(text, all)}
      [all, whole, fraction, power] -> {float(whole, fraction, power), after_(text, all)}
      nil -> throw({:json, "a number is none"})
    end
  end

  defp head(text), do: binary_part(text, 0, min(byte_size(text), 1000))
  defp after_(text, all), do: binary_part(text, byte_size(all), byte_size(text) - byte_size(all))

  defp integer(text) do
    number = String.to_integer(text)
    if abs(number) > @exact, do: throw({:json, "the integer #{text} is beyond 2^53"})
    number
  end

  defp float(whole, fraction, power) do
    String.to_float(whole <> if(fraction == "", do: ".0", else: fraction) <> power)
  rescue
    ArgumentError -> throw({:json, "the number #{whole}#{fraction}#{power} is too large"})
  end

  @doc "A value as JSON text. An object is a map, or a list of pairs under `{:object, pairs}`."
  def encode(value), do: value |> write() |> IO.iodata_to_binary()

  defp write({:object, pairs}) do
    [
      "{",
      pairs |> Enum.map(fn {k, v} -> [quoted(k), ":", write(v)] end) |> Enum.intersperse(","),
      "}"
    ]
  end

  defp write(map) when is_map(map), do: write({:object, Enum.sort(map)})

  defp write(list) when is_list(list),
    do: ["[", list |> Enum.map(&write/1) |> Enum.intersperse(","), "]"]

  defp write(text) when is_binary(text), do: quoted(text)
  defp write(float) when is_float(float), do: Float.to_string(float)
  defp write(other) when is_integer(other) or is_boolean(other), do: to_string(other)
  defp write(nil), do: "null"

  defp quoted(text) do
    escaped =
      for <<c::utf8 <- text>>, into: "" do
        cond do
          c in [?", ?\\] -> <<?\\, c>>
          c < 32 -> "\\u" <> String.pad_leading(Integer.to_string(c, 16), 4, "0")
          true -> <<c::utf8>>
        end
      end

    ["\"", escaped, "\""]
  end
end

defmodule AxonHub.SafeTensors do
  @moduledoc """
  The safetensors file: 8 bytes with the header's length, a header in JSON, then the elements. Every
  fact in the header is checked against the file before any of it is believed.
  """

  alias AxonHub.JSON

  @sizes %{
    "F64" => 8,
    "I64" => 8,
    "U64" => 8,
    "F32" => 4,
    "I32" => 4,
    "U32" => 4,
    "F16" => 2,
    "BF16" => 2,
    "I16" => 2,
    "U16" => 2,
    "I8" => 1,
    "U8" => 1,
    "F8_E4M3" => 1,
    "F8_E5M2" => 1
  }

  @doc """
  What a file holds: `{:ok, %{key => {path, dtype, shape, first byte, bytes}}}`, or
  `{:error, problems}`.
  """
  def index(path) do
    with {:ok, %{size: size}} <- File.stat(path),
         {:ok, file} <- :file.open(path, [:read, :raw, :binary]) do
      try do
        header(file, path, size)
      after
        :file.close(file)
      end
    else
      {:error, reason} -> {:error, [to_string(:file.format_error(reason))]}
    end
  end

  @doc "The bytes of one entry of an index."
  def read!({_, _, _, _, 0}), do: ""

  def read!({path, _, _, start, length}) do
    {:ok, file} = :file.open(path, [:read, :raw, :binary])

    try do
      {:ok, bytes} = :file.pread(file, start, length)
      bytes
    after
      :file.close(file)
    end
  end

  defp header(file, path, size) do
    with {:ok, <<length::little-64>>} <- :file.read(file, 8),
         true <- length > 0 and length <= size - 8 and length <= 100_000_000,
         {:ok, text} <- :file.read(file, length),
         {:ok, header} <- JSON.decode(text),
         true <- is_map(header) and String.starts_with?(text, "{") do
      {notes, entries} = Map.pop(header, "__metadata__", %{})
      faults = if text?(notes), do: [], else: ["__metadata__ must map text to text"]
      faults = faults ++ for {key, e} <- entries, why = fault(e), do: "tensor '#{key}': #{why}"
      faults = if faults == [], do: layout(entries, size - 8 - length), else: faults

      case faults do
        [] -> {:ok, Map.new(entries, fn {key, e} -> {key, entry(path, e, 8 + length)} end)}
        _ -> {:error, faults}
      end
    else
      {:error, reason} when is_binary(reason) -> {:error, ["the header is " <> reason]}
      _ -> {:error, ["no safetensors file: its header goes past the end or is no object"]}
    end
  end

  defp text?(notes), do: is_map(notes) and Enum.all?(Map.values(notes), &is_binary/1)

  defp entry(path, %{"dtype" => dtype, "shape" => shape, "data_offsets" => [from, to]}, start) do
    {path, dtype, shape, start + from, to - from}
  end

  defp fault(%{"dtype" => dtype, "shape" => shape, "data_offsets" => [from, to]} = entry)
       when map_size(entry) == 3 and is_list(shape) and length(shape) <= 64 and
              is_integer(from) and is_integer(to) and from >= 0 and to >= from do
    cond do
      not Enum.all?(shape, &(is_integer(&1) and &1 >= 0)) -> "its shape is none"
      not is_map_key(@sizes, dtype) -> "its dtype is none of safetensors that hubtool stores"
      Enum.product(shape) * @sizes[dtype] != to - from -> "its bytes are not those of its shape"
      true -> nil
    end
  end

  defp fault(_), do: "must have exactly dtype, shape and data_offsets"

  defp layout(entries, size) do
    spans = entries |> Enum.map(fn {key, e} -> {e["data_offsets"], key} end) |> Enum.sort()

    {faults, last} =
      Enum.reduce(spans, {[], 0}, fn {[from, to], key}, {faults, place} ->
        cond do
          to > size ->
            {["tensor '#{key}' goes past the end of the file" | faults], to}

          from < place ->
            {["tensor '#{key}' overlaps the one before it" | faults], max(to, place)}

          from > place ->
            {["bytes before tensor '#{key}' belong to none" | faults], to}

          true ->
            {faults, to}
        end
      end)

    faults = if last < size, do: ["the last bytes belong to no tensor" | faults], else: faults
    Enum.reverse(faults)
  end

  @doc """
  Writes `[{key, dtype, shape, bytes}]` to a new file; its sha256 and size. Larger elements come
  first and the data begins at a multiple of 64 bytes, so that all of it is aligned.
  """
  def write!(path, parts) do
    parts = Enum.sort_by(parts, fn {key, dtype, _, _} -> {-@sizes[dtype], key} end)

    {entries, _} =
      Enum.map_reduce(parts, 0, fn {key, dtype, shape, bytes}, from ->
        to = from + byte_size(bytes)
        told = [{"dtype", dtype}, {"shape", shape}, {"data_offsets", [from, to]}]
        {{key, {:object, told}}, to}
      end)

    notes = {"__metadata__", %{"format" => "axon_hub"}}
    text = JSON.encode({:object, [notes | entries]})
    text = text <> String.duplicate(" ", Integer.mod(-(8 + byte_size(text)), 64))
    head = <<byte_size(text)::little-64, text::binary>>
    data = [head | Enum.map(parts, fn {_, _, _, bytes} -> bytes end)]
    File.write!(path, data, [:exclusive])
    digest = Enum.reduce(data, :crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))
    {Base.encode16(:crypto.hash_final(digest), case: :lower), IO.iodata_length(data)}
  end
end

defmodule AxonHub.Folder do
  @moduledoc """
  Reads graph.json and the weights beside it, with suspicion: every object must have the keys that
  it should and no others, every tensor must be in the files with the type and shape that it is
  said to have. All problems are collected.

  A graph is a map of `:inputs` and `:outputs` (`[{name, dtype, shape}]`), `:layers` (maps of
  `:name`, `:op`, `:inputs`, `:outputs`, `:attrs`), `:tensors` (name => weight) and `:dtypes`, all
  element types that occur, and `:ranks` (name => axes, where known). An attribute that is no
  number, text or list of such is tagged:
  `{:tensor, name}`, `{:graph, graph}`, `{:type, value}`, `{:bytes, bytes}`.
  """

  alias AxonHub.{Error, JSON, SafeTensors}

  @compile {:no_warn_undefined, [Nx, Nx.Defn, Axon, Axon.MixedPrecision]}

  @format 1
  @opsets %{"" => 28, "ai.onnx.ml" => 5, "com.microsoft" => 1}
  @sections ~w(format opsets weights meta inputs outputs layers tensors values)
  @graph_sections ~w(inputs outputs layers tensors values)

  # dtype => {its number in ONNX, how safetensors holds it, how its bytes are read}
  @dtypes %{
    "float32" => {1, "F32", {:f, 32}},
    "uint8" => {2, "U8", {:u, 8}},
    "int8" => {3, "I8", {:s, 8}},
    "uint16" => {4, "U16", {:u, 16}},
    "int16" => {5, "I16", {:s, 16}},
    "int32" => {6, "I32", {:s, 32}},
    "int64" => {7, "I64", {:s, 64}},
    "string" => {8, "U8", :text},
    "bool" => {9, "U8", :bool},
    "float16" => {10, "F16", {:f, 16}},
    "float64" => {11, "F64", {:f, 64}},
    "uint32" => {12, "U32", {:u, 32}},
    "uint64" => {13, "U64", {:u, 64}},
    "complex64" => {14, "F32", {:c, 64}},
    "complex128" => {15, "F64", {:c, 128}},
    "bfloat16" => {16, "BF16", {:bf, 16}},
    "float8_e4m3fn" => {17, "F8_E4M3", {:small, 4, 3, 7}},
    "float8_e4m3fnuz" => {18, "U8", {:small, 4, 3, 8}},
    "float8_e5m2" => {19, "F8_E5M2", {:small, 5, 2, 15}},
    "float8_e5m2fnuz" => {20, "U8", {:small, 5, 2, 16}},
    "uint4" => {21, "U8", {:packed, 4, :u}},
    "int4" => {22, "U8", {:packed, 4, :s}},
    "float4_e2m1fn" => {23, "U8", {:packed, 4, :f}},
    "float8_e8m0fnu" => {24, "U8", {:small, 8, 0, 127}},
    "uint2" => {25, "U8", {:packed, 2, :u}},
    "int2" => {26, "U8", {:packed, 2, :s}},
    "float6_e2m3fn" => {27, "U8", {:small, 2, 3, 1}},
    "float6_e3m2fn" => {28, "U8", {:small, 3, 2, 3}}
  }
  @numbers Map.new(@dtypes, fn {name, {number, _, _}} -> {number, name} end)

  @doc "The element type of an ONNX number, or nil."
  def dtype(number), do: @numbers[number]

  @doc "The Nx type of an element type that Nx computes with (bool is u8), or nil."
  def nx_type("bool"), do: {:u, 8}

  def nx_type(dtype) do
    case @dtypes[dtype] do
      {_, _, {kind, bits}} -> {kind, bits}
      _ -> nil
    end
  end

  @doc "The graph of a folder. `verify`: compare the hashes too. Raises `AxonHub.Error`."
  def read!(folder, verify) do
    document = document!(folder)
    {entries, faults} = weights(folder, document["weights"], verify)
    {graph, used, problems} = decode(document, entries)

    surplus =
      for key <- Map.keys(entries),
          key not in used,
          do: "the weights hold '#{key}', which nothing names"

    problems =
      faults ++ opsets(document["opsets"]) ++ if(faults == [], do: problems ++ surplus, else: [])

    if problems != [] do
      raise Error.new(
              "cannot read the model in '#{folder}':",
              problems,
              "Fetch or convert it again."
            )
    end

    graph
  end

  defp document!(folder) do
    path = Path.join(folder, "graph.json")

    with :ok <- place(folder, "graph.json"),
         {:ok, text} <- File.read(path),
         {:ok, document} <- JSON.decode(text) do
      sections!(path, document)
    else
      {:error, reason} when is_atom(reason) -> fail(path, [to_string(:file.format_error(reason))])
      {:error, reason} -> fail(path, [reason])
    end
  end

  defp sections!(path, %{"format" => number} = document)
       when is_integer(number) and number >= 1 do
    if number > @format,
      do:
        fail(path, ["it is of format #{number}, this AxonHub reads #{@format}: take a newer one"])

    case {Map.keys(document) -- @sections, @sections -- Map.keys(document)} do
      {[], []} ->
        document

      {more, less} ->
        fail(
          path,
          Enum.map(more, &"unknown key '#{&1}'") ++ Enum.map(less, &"'#{&1}' is missing")
        )
    end
  end

  defp sections!(path, _), do: fail(path, ["it has no format number"])

  defp fail(path, problems), do: raise(Error.new("cannot read '#{path}':", problems))

  defp opsets(opsets) when is_map(opsets) do
    for {domain, version} <- opsets, @opsets[domain] != version do
      "it needs opset #{inspect(version)} of '#{domain}', which this AxonHub does not know"
    end
  end

  defp opsets(_), do: ["opsets must be an object"]

  # A name is a file of the folder itself; a link may only lead to the blobs of the Hugging Face
  # cache that the folder is part of.
  defp place(folder, name) do
    path = Path.join(folder, name)

    with {:ok, %{type: :symlink}} <- File.lstat(path),
         {:ok, target} <- File.read_link(path),
         target = Path.expand(target, folder),
         true <- allowed?(Path.dirname(target), Path.expand(folder)) do
      regular(target)
    else
      {:ok, _} -> regular(path)
      false -> {:error, "a link that leads out of the folder"}
      error -> error
    end
  end

  defp allowed?(home, folder) do
    parts = Path.split(folder)
    models = Enum.find_index(parts, &String.starts_with?(&1, "models--"))

    home == folder or
      (models && home == Path.join(Enum.take(parts, models + 1) ++ ["blobs"])) == true
  end

  defp regular(path) do
    case File.lstat(path) do
      {:ok, %{type: :regular}} -> :ok
      {:ok, _} -> {:error, "no regular file"}
      error -> error
    end
  end

  defp weights(folder, listed, verify) when is_list(listed) do
    Enum.reduce(listed, {%{}, []}, fn told, {entries, faults} ->
      with {:ok, name, path} <- named(folder, told),
           :ok <- same(path, told, verify),
           {:ok, more} <- SafeTensors.index(path) do
        twice =
          for key <- Map.keys(more),
              is_map_key(entries, key),
              do: "#{name}: '#{key}' is in another file too"

        {Map.merge(entries, more), faults ++ twice}
      else
        {:error, why} -> {entries, faults ++ Enum.map(List.wrap(why), &"#{label(told)}: #{&1}")}
      end
    end)
  end

  defp weights(_, _, _), do: {%{}, ["weights must be an array"]}

  defp label(%{"file" => name}) when is_binary(name), do: name
  defp label(_), do: "weights"

  defp named(folder, %{"file" => name, "sha256" => hash, "size" => size} = told)
       when map_size(told) == 3 and is_binary(name) and is_binary(hash) and is_integer(size) do
    plain =
      name not in ["", ".", "..", "graph.json"] and
        not String.contains?(name, ["/", "\\", ":", "\0"])

    with true <- plain, :ok <- place(folder, name) do
      {:ok, name, Path.join(folder, name)}
    else
      false -> {:error, "no name for a weights file"}
      {:error, reason} when is_atom(reason) -> {:error, to_string(:file.format_error(reason))}
      error -> error
    end
  end

  defp named(_, _), do: {:error, "must list file, sha256 and size, and no more"}

  defp same(path, %{"sha256" => hash, "size" => size}, verify) do
    given = File.stat!(path).size

    cond do
      given != size -> {:error, "it has #{given} bytes, #{size} are recorded"}
      verify and sha256(path) != hash -> {:error, "its sha256 is not the one that is recorded"}
      true -> :ok
    end
  end

  @doc "The sha256 of a file, in small hexadecimal digits."
  def sha256(path) do
    path
    |> File.stream!([], 1_048_576)
    |> Enum.reduce(:crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))
    |> :crypto.hash_final()
    |> Base.encode16(case: :lower)
  end

  # Problems and the keys of the weights that were asked for are gathered in the process, so that
  # the decoding below reads as the format's page does.
  defp decode(document, entries) do
    Process.put({__MODULE__, :problems}, [])
    Process.put({__MODULE__, :used}, MapSet.new())
    graph = graph(document, entries, "", 0)
    domains = if is_map(document["opsets"]), do: Map.keys(document["opsets"]), else: []

    for layer <- graph.layers, (domain = domain(layer.op)) not in domains do
      problem("layer '#{layer.name}': opsets lacks the domain '#{domain}' of #{layer.op}")
    end

    unless is_map(document["meta"]), do: problem("meta must be an object")

    {graph, Process.delete({__MODULE__, :used}),
     Enum.reverse(Process.delete({__MODULE__, :problems}))}
  end

  defp domain(op), do: op |> String.split(".") |> Enum.drop(-1) |> Enum.join(".")

  defp problem(text) do
    Process.put({__MODULE__, :problems}, [text | Process.get({__MODULE__, :problems})])
    nil
  end

  defp graph(_, _, where, depth) when depth > 64 do
    problem("#{where}subgraphs are nested more than 64 deep")
    %{inputs: [], outputs: [], layers: [], tensors: %{}, dtypes: MapSet.new(), ranks: %{}}
  end

  defp graph(told, entries, where, depth) do
    tensors =
      for {name, t} <- object(told["tensors"], where <> "tensors"),
          found = tensor(name, t, entries, where),
          into: %{} do
        {name, found}
      end

    values =
      for {name, v} <- object(told["values"], where <> "values"),
          found = value(v, [], "#{where}value '#{name}'") do
        put_elem(found, 0, name)
      end

    [inputs, outputs] = for key <- ~w(inputs outputs), do: named_values(told[key], where <> key)
    listed = Enum.with_index(array(told["layers"], where <> "layers"))
    layers = for {l, i} <- listed, found = layer(l, i, tensors, entries, where, depth), do: found
    names(inputs, outputs, layers, tensors, where, depth)
    told_types = for {_, dtype, _} <- inputs ++ outputs ++ values, do: dtype
    types = MapSet.new(told_types ++ for({_, t} <- tensors, do: t.dtype))

    ranks =
      for {name, _, shape} <- inputs ++ outputs ++ values,
          shape,
          into: %{},
          do: {name, length(shape)}

    %{
      inputs: inputs,
      outputs: outputs,
      layers: layers,
      tensors: tensors,
      dtypes: types,
      ranks: ranks
    }
  end

  defp object(map, _) when is_map(map), do: map
  defp object(_, what), do: problem("#{what} must be an object") || %{}
  defp array(list, _) when is_list(list), do: list
  defp array(_, what), do: problem("#{what} must be an array") || []

  defp keys?(told, needed, optional, what) do
    cond do
      not is_map(told) ->
        problem("#{what} must be an object") || false

      (less = needed -- Map.keys(told)) != [] ->
        problem("#{what} lacks #{Enum.join(less, ", ")}") || false

      (more = Map.keys(told) -- (needed ++ optional)) != [] ->
        problem("#{what} has the unknown key '#{hd(more)}'") || false

      true ->
        true
    end
  end

  defp named_values(list, what) do
    found = for told <- array(list, what), v = value(told, ["name"], what), do: v
    names = Enum.map(found, &elem(&1, 0))
    for name <- names -- Enum.uniq(names), do: problem("#{what} names '#{name}' twice")
    found
  end

  defp value(told, more, what) do
    if keys?(told, more ++ ~w(dtype shape), ["kind"], what) do
      %{"dtype" => dtype, "shape" => shape} = told
      name = if more == [], do: "-", else: told["name"]
      good = is_binary(name) and (dtype == "" or is_map_key(@dtypes, dtype)) and dims?(shape)
      dtype = if Map.get(told, "kind", "tensor") == "tensor", do: dtype, else: "no tensor"
      if good, do: {name, dtype, shape}, else: problem("#{what} is no value")
    end
  end

  defp dims?(nil), do: true

  defp dims?(shape),
    do: is_list(shape) and Enum.all?(shape, &(&1 == nil or is_binary(&1) or size?(&1)))

  defp size?(n), do: is_integer(n) and n >= 0

  defp tensor(name, told, entries, where) do
    what = "#{where}tensor '#{name}'"

    if keys?(told, ~w(dtype shape stored), ["key"], what) do
      %{"dtype" => dtype, "shape" => shape} = told
      key = Map.get(told, "key", name)

      cond do
        not is_map_key(@dtypes, dtype) ->
          problem("#{what}: unknown element type #{inspect(dtype)}")

        not (is_list(shape) and length(shape) <= 64 and Enum.all?(shape, &size?/1)) ->
          problem("#{what}: its shape is none")

        true ->
          weight(@dtypes[dtype], dtype, shape, key, told["stored"], entries, what)
      end
    end
  end

  defp weight({_, form, how}, dtype, shape, key, stored, entries, what) do
    if stored != form,
      do: problem("#{what}: #{dtype} is stored as #{form}, not as #{inspect(stored)}")

    if how == :text, do: entry(key <> "/offsets", "I64", [Enum.product(shape) + 1], entries, what)
    wanted = if how == :text, do: :any, else: stored_shape(how, shape)
    found = entry(key, form, wanted, entries, what)
    found && %{dtype: dtype, shape: shape, how: how, entry: found, what: what}
  end

  defp stored_shape({:packed, bits, _}, shape), do: [div(Enum.product(shape) * bits + 7, 8)]
  defp stored_shape({:c, _}, shape), do: shape ++ [2]
  defp stored_shape(_, shape), do: shape

  defp entry(key, form, shape, entries, what) do
    Process.put({__MODULE__, :used}, MapSet.put(Process.get({__MODULE__, :used}), key))

    case entries[key] do
      nil ->
        problem("#{what}: the weights hold no '#{key}'")

      {_, ^form, given, _, _} = found
      when given == shape or (shape == :any and length(given) == 1) ->
        found

      {_, given, size, _, _} ->
        problem(
          "#{what}: '#{key}' in the weights is #{given}#{inspect(size, charlists: :as_lists)}, " <>
            "not #{form}#{inspect(shape, charlists: :as_lists)}"
        )
    end
  end

  defp layer(told, index, tensors, entries, where, depth) do
    what = "#{where}layer #{index}"

    if keys?(told, ~w(name op inputs outputs), ["attrs"], what) do
      %{"name" => name, "op" => op, "inputs" => inputs, "outputs" => outputs} = told
      attrs = Map.get(told, "attrs", %{})

      if is_binary(name) and name != "" and is_binary(op) and is_map(inputs) and is_map(attrs) and
           Enum.all?(Map.values(inputs), &(is_binary(&1) or texts?(&1))) and texts?(outputs) do
        what = "#{where}layer '#{name}' (#{op})"

        attrs =
          for {key, a} <- attrs,
              do: {key, attr(a, tensors, entries, "#{what}: attribute '#{key}'", depth)}

        %{name: name, op: op, inputs: inputs, outputs: outputs, attrs: Map.new(attrs)}
      else
        problem("#{what} is no layer")
      end
    end
  end

  defp texts?(list), do: is_list(list) and Enum.all?(list, &is_binary/1)

  defp attr(list, tensors, entries, what, depth) when is_list(list) do
    for item <- list, do: item(item, tensors, entries, what, depth)
  end

  defp attr(%{"list" => key} = told, _, entries, what, _) when map_size(told) == 1 do
    form = with {_, form, _, _, _} <- entries[key], do: form
    found = entry(key, form || "I64", :any, entries, what)

    case {found, form} do
      {nil, _} -> []
      {_, "I64"} -> for <<n::little-signed-64 <- SafeTensors.read!(found)>>, do: n
      {_, "F32"} -> for <<bits::binary-size(4) <- SafeTensors.read!(found)>>, do: float(bits)
      {_, "U8"} -> entry(key <> "/offsets", "I64", :any, entries, what) && {:texts, key}
      _ -> problem("#{what}: '#{key}' is no list of numbers or text") || []
    end
  end

  defp attr(told, tensors, entries, what, depth), do: item(told, tensors, entries, what, depth)

  defp float(<<x::float-little-32>>), do: x
  defp float(<<0x7F800000::little-32>>), do: :infinity
  defp float(<<0xFF800000::little-32>>), do: :neg_infinity
  defp float(_), do: :nan

  defp item(number, _, _, _, _) when is_integer(number) or is_binary(number), do: number

  defp item(number, _, _, _, _) when is_float(number) and abs(number) < 3.4028235677973366e38,
    do: number

  defp item(told, tensors, entries, what, depth) when map_size(told) == 1 do
    case Enum.at(told, 0) do
      {"tensor", name} when is_map_key(tensors, name) ->
        {:tensor, name}

      {"float", "inf"} ->
        :infinity

      {"float", "-inf"} ->
        :neg_infinity

      {"float", "nan"} ->
        :nan

      {"int", text} when is_binary(text) ->
        whole(text, what)

      {"bytes", text} when is_binary(text) ->
        {:bytes, Base.decode64(text)}

      {"type", value} ->
        {:type, value(value, [], what)}

      {"graph", g} ->
        keys?(g, @graph_sections, [], what) &&
          {:graph, graph(g, entries, what <> " > ", depth + 1)}

      _ ->
        problem("#{what} is no attribute")
    end
  end

  defp item(_, _, _, what, _), do: problem("#{what} is no attribute")

  defp whole(text, what) do
    if text =~ ~r/\A(0|-?[1-9][0-9]{0,18})\z/,
      do: String.to_integer(text),
      else: problem("#{what} is no integer")
  end

  # Names are the edges: each made once, and before it is read. What a subgraph reads from around
  # it is left to whoever runs it.
  defp names(inputs, outputs, layers, tensors, where, depth) do
    names = Enum.map(layers, & &1.name)

    for name <- Enum.uniq(names -- Enum.uniq(names)),
        do: problem("#{where}two layers are named '#{name}'")

    start = MapSet.new(Map.keys(tensors) ++ Enum.map(inputs, &elem(&1, 0)))

    made =
      Enum.reduce(layers, start, fn layer, made ->
        read = layer.inputs |> Map.values() |> List.flatten() |> Enum.uniq()

        for name <- read, depth == 0, name not in made do
          problem("layer '#{layer.name}' reads '#{name}', which nothing before it makes")
        end

        Enum.reduce(layer.outputs, made, fn
          "", made ->
            made

          name, made ->
            if(name in made, do: problem("#{where}'#{name}' is made twice")) ||
              MapSet.put(made, name)
        end)
      end)

    for {name, _, _} <- outputs,
        depth == 0,
        name not in made,
        do: problem("nothing makes the output '#{name}'")
  end

  @doc """
  A weight as a tensor on Nx.BinaryBackend: bool as u8, 4- and 2-bit integers as 8-bit ones, floats
  that Nx lacks as f32, each with the same value. nil for text; `{:empty, type}` for a list without
  items, since Nx has no empty tensors.
  """
  def tensor!(%{how: :text}), do: nil

  def tensor!(%{how: how, shape: shape, entry: entry, what: what}) do
    bytes = SafeTensors.read!(entry)
    {type, bytes} = elements(how, bytes, Enum.product(shape), what)

    if 0 in shape do
      unless shape == [0],
        do:
          raise(
            Error.new("cannot read the weights:", [
              "#{what} is empty, and Nx has no empty tensors"
            ])
          )

      {:empty, type}
    else
      bytes |> Nx.from_binary(type, backend: Nx.BinaryBackend) |> Nx.reshape(List.to_tuple(shape))
    end
  end

  defp elements(:bool, bytes, _, what) do
    if :binary.match(bytes, for(b <- 2..255, do: <<b>>)) != :nomatch do
      raise Error.new("cannot read the weights:", ["#{what}: a bool is neither 0 nor 1"])
    end

    {{:u, 8}, bytes}
  end

  defp elements({:packed, bits, kind}, bytes, count, _) do
    all =
      for <<byte <- bytes>>, at <- 0..(8 - bits)//bits, do: rem(Bitwise.bsr(byte, at), 2 ** bits)

    chosen = Enum.take(all, count)
    half = 2 ** (bits - 1)

    case kind do
      :u ->
        {{:u, 8}, for(n <- chosen, into: "", do: <<n>>)}

      :s ->
        {{:s, 8}, for(n <- chosen, into: "", do: <<if(n >= half, do: n - 2 * half, else: n)>>)}

      :f ->
        {{:f, 32}, for(n <- chosen, into: "", do: small(n, 2, 1, 1))}
    end
  end

  defp elements({:small, e, m, bias}, bytes, _, _) do
    table = List.to_tuple(for n <- 0..255, do: small(n, e, m, bias))
    {{:f, 32}, for(<<n <- bytes>>, into: "", do: elem(table, n))}
  end

  defp elements({_, _} = type, bytes, _, _), do: {type, bytes}

  @nan <<0, 0, 192, 127>>
  @infinite {<<0, 0, 128, 127>>, <<0, 0, 128, 255>>}

  # float8_e8m0fnu has no sign; the fnuz types (told by their bias) have one NaN and no -0.
  defp small(0xFF, 8, 0, _), do: @nan
  defp small(n, 8, 0, _), do: <<2.0 ** (n - 127)::float-little-32>>
  defp small(0x80, 4, 3, 8), do: @nan
  defp small(0x80, 5, 2, 16), do: @nan
  defp small(n, 4, 3, 7) when n in [0x7F, 0xFF], do: @nan
  defp small(n, 5, 2, 15) when n in [0x7C, 0xFC], do: elem(@infinite, div(n, 128))
  defp small(n, 5, 2, 15) when rem(n, 128) > 0x7C, do: @nan

  defp small(n, e, m, bias) do
    <<_::size(8 - 1 - e - m), sign::1, exponent::size(e), mantissa::size(m)>> = <<n>>
    part = mantissa / 2 ** m

    size =
      if exponent == 0, do: 2.0 ** (1 - bias) * part, else: 2.0 ** (exponent - bias) * (1 + part)

    <<if(sign == 1, do: -size, else: size)::float-little-32>>
  end
end

defmodule AxonHub.Operators do
  @moduledoc """
  What each ONNX operator means, in Nx functions: `run/4`.

  The table tells the formal inputs (`*` stands before one that is a list, `?` behind one that may
  be left out, `!` behind one that must be known while the model is compiled: a shape, axes, pads)
  and, behind the semicolon, the attributes. All functions take tensors at hand as well as those of
  a model that is being compiled, whose shapes are known and whose elements are not.
  """

  alias AxonHub.Folder

  @compile {:no_warn_undefined, [Nx, Nx.Defn, Axon, Axon.MixedPrecision]}

  @table """
  Abs: X
  Acos: input
  Acosh: input
  Add: A B
  And: A B
  ArgMax: data; axis keepdims select_last_index
  ArgMin: data; axis keepdims select_last_index
  Asin: input
  Asinh: input
  Atan: input
  Atanh: input
  AveragePool: X; auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides
  BatchNormalization: X scale B input_mean input_var; epsilon momentum training_mode
  BitShift: X Y; direction
  BitwiseAnd: A B
  BitwiseNot: X
  BitwiseOr: A B
  BitwiseXor: A B
  Cast: input; to saturate round_mode
  CastLike: input target_type; saturate round_mode
  Ceil: X
  Celu: X; alpha
  Clip: input min? max?
  Concat: *inputs; axis
  ConstantOfShape: input!; value
  Conv: X W B?; auto_pad dilations group kernel_shape pads strides
  ConvTranspose: X W B?; auto_pad dilations group kernel_shape output_padding output_shape pads strides
  Cos: input
  Cosh: input
  CumProd: x axis!; exclusive reverse
  CumSum: x axis!; exclusive reverse
  DepthToSpace: input; blocksize mode
  Div: A B
  Dropout: data ratio!? training_mode!?; seed
  Einsum: *Inputs; equation
  Elu: X; alpha
  Equal: A B
  Erf: input
  Exp: input
  Expand: input shape!
  Flatten: input; axis
  Floor: X
  Gather: data indices; axis
  GatherElements: data indices; axis
  GatherND: data indices; batch_dims
  Gelu: X; approximate
  Gemm: A B C?; alpha beta transA transB
  GlobalAveragePool: X
  GlobalLpPool: X; p
  GlobalMaxPool: X
  Greater: A B
  GreaterOrEqual: A B
  GroupNormalization: X scale bias; epsilon num_groups stash_type
  HardSigmoid: X; alpha beta
  HardSwish: X
  Hardmax: input; axis
  Identity: input
  InstanceNormalization: input scale B; epsilon
  IsInf: X; detect_negative detect_positive
  IsNaN: X
  LRN: X; alpha beta bias size
  LayerNormalization: X Scale B?; axis epsilon stash_type
  LeakyRelu: X; alpha
  Less: A B
  LessOrEqual: A B
  Log: input
  LogSoftmax: input; axis
  LpNormalization: input; axis p
  LpPool: X; auto_pad ceil_mode dilations kernel_shape p pads strides
  MatMul: A B
  Max: *data_0
  MaxPool: X; auto_pad ceil_mode dilations kernel_shape pads storage_order strides
  Mean: *data_0
  MeanVarianceNormalization: X; axes
  Min: *data_0
  Mish: X
  Mod: A B; fmod
  Mul: A B
  Neg: X
  Not: X
  Or: A B
  PRelu: X slope
  Pad: data pads! constant_value? axes!?; mode
  Pow: X Y
  RMSNormalization: X scale; axis epsilon stash_type
  Range: start! limit! delta!; stash_type
  Reciprocal: X
  ReduceL1: data axes!?; keepdims noop_with_empty_axes
  ReduceL2: data axes!?; keepdims noop_with_empty_axes
  ReduceLogSum: data axes!?; keepdims noop_with_empty_axes
  ReduceLogSumExp: data axes!?; keepdims noop_with_empty_axes
  ReduceMax: data axes!?; keepdims noop_with_empty_axes
  ReduceMean: data axes!?; keepdims noop_with_empty_axes
  ReduceMin: data axes!?; keepdims noop_with_empty_axes
  ReduceProd: data axes!?; keepdims noop_with_empty_axes
  ReduceSum: data axes!?; keepdims noop_with_empty_axes
  ReduceSumSquare: data axes!?; keepdims noop_with_empty_axes
  Relu: X
  Reshape: data shape!; allowzero
  Round: X
  ScatterElements: data indices updates; axis reduction
  ScatterND: data indices updates; reduction
  Selu: X; alpha gamma
  Shape: data; start end
  Shrink: input; bias lambd
  Sigmoid: X
  Sign: input
  Sin: input
  Sinh: input
  Size: data
  Slice: data starts! ends! axes!? steps!?
  Softmax: input; axis
  Softplus: X
  Softsign: input
  SpaceToDepth: input; blocksize mode
  Split: input split!?; axis num_outputs
  Sqrt: X
  Squeeze: data axes!?
  Sub: A B
  Sum: *data_0
  SwiGLU: A B; alpha
  Swish: X; alpha
  Tan: input
  Tanh: input
  ThresholdedRelu: X; alpha
  Tile: input repeats!
  TopK: X K!; axis largest sorted
  Transpose: data; perm
  Unsqueeze: data axes!
  Where: condition X Y
  Xor: A B
  com.microsoft.FusedConv: X W B? Z?; activation activation_params auto_pad dilations group kernel_shape pads strides
  """

  @schemas @table
           |> String.split("\n", trim: true)
           |> Map.new(fn line ->
             [name, rest] = String.split(String.trim(line), ": ", parts: 2)
             [formals | attrs] = String.split(rest, "; ")

             formals =
               for text <- String.split(formals) do
                 formal =
                   String.trim_leading(text, "*")
                   |> String.trim_trailing("?")
                   |> String.trim_trailing("!")

                 marks = [many: text =~ "*", known: text =~ "!", optional: text =~ "?"]
                 {formal, Map.new(marks)}
               end

             {name, %{formals: formals, attrs: Enum.flat_map(attrs, &String.split/1)}}
           end)

  @atoms Map.new(@schemas, fn {name, _} -> {name, String.to_atom(name)} end)

  @doc "All names, sorted."
  def names, do: @schemas |> Map.keys() |> Enum.sort()

  @doc "The formal inputs and the attributes of an operator, or nil."
  def schema(name), do: @schemas[name]

  @doc "The operator's name as an atom that this module was compiled with."
  def atom(name), do: Map.fetch!(@atoms, name)

  @doc "How a layer departs from its operator's schema."
  def faults(layer) do
    case @schemas[layer.op] do
      nil ->
        ["AxonHub knows no operator #{layer.op}"]

      schema ->
        inputs(layer, schema.formals) ++
          attrs(layer, schema.attrs) ++ List.wrap(refusal(layer.op, layer))
    end
  end

  defp inputs(layer, formals) do
    unknown =
      for name <- Map.keys(layer.inputs),
          not List.keymember?(formals, name, 0),
          do: "unknown input '#{name}'"

    unknown ++
      for {name, marks} <- formals,
          given = Map.get(layer.inputs, name, :none),
          why = amiss(given, marks) do
        "input '#{name}' #{why}"
      end
  end

  defp amiss(:none, marks), do: if(not marks.optional and not marks.many, do: "is missing")

  defp amiss(list, %{many: many}) when is_list(list),
    do: if(not many or list == [], do: "must be one value")

  defp amiss(_, %{many: many}), do: if(many, do: "must be a list of values")

  defp attrs(layer, known) do
    for key <- Map.keys(layer.attrs) -- known, do: "unknown attribute '#{key}'"
  end

  @typed ~w(Concat:axis AveragePool:kernel_shape MaxPool:kernel_shape LpPool:kernel_shape Einsum:equation) ++
           ~w(LRN:size GroupNormalization:num_groups Cast:to DepthToSpace:blocksize SpaceToDepth:blocksize) ++
           ~w(BitShift:direction)
  @needed Enum.group_by(Enum.map(@typed, &String.split(&1, ":")), &hd/1, &List.last/1)

  # What the operator may ask for and Axon cannot say.
  defp refusal(op, layer) do
    case Map.get(@needed, op, []) -- Map.keys(layer.attrs) do
      [key | _] -> "attribute '#{key}' is missing"
      [] -> beyond(op, layer.attrs, Enum.drop(Enum.map(layer.outputs, &(&1 != "")), 1))
    end
  end

  defp beyond("BatchNormalization", %{"training_mode" => 1}, _), do: "it is in training mode"

  defp beyond("BatchNormalization", _, more),
    do: if(true in more, do: "it asks for the running statistics")

  defp beyond("MaxPool", _, more),
    do: if(true in more, do: "it asks for Indices, and Nx tells none")

  defp beyond("Cast", %{"to" => to}, _) do
    if Folder.nx_type(Folder.dtype(to)) == nil,
      do: "Nx has no element type #{Folder.dtype(to) || to}"
  end

  defp beyond("Einsum", %{"equation" => equation}, _) do
    terms = equation |> String.split("->") |> hd() |> String.split(",")
    if Enum.any?(terms, &twice?/1), do: "a letter stands twice in one term of '#{equation}'"
  end

  defp beyond(op, %{"reduction" => how}, _) when how not in ["none", "add"],
    do: "#{op} with reduction #{how}"

  defp beyond(_, _, _), do: nil

  defp twice?(term) do
    letters = term |> String.replace(".", "") |> String.replace(" ", "") |> String.graphemes()
    letters != Enum.uniq(letters)
  end

  @of_lists ~w(Cast ReduceProd Size Identity Slice Add Sub Mul Div Where)
  @unary %{
    "Abs" => :abs,
    "Acos" => :acos,
    "Acosh" => :acosh,
    "Asin" => :asin,
    "Asinh" => :asinh,
    "Atan" => :atan,
    "Atanh" => :atanh,
    "BitwiseNot" => :bitwise_not,
    "Ceil" => :ceil,
    "Cos" => :cos,
    "Cosh" => :cosh,
    "Erf" => :erf,
    "Exp" => :exp,
    "Floor" => :floor,
    "IsNaN" => :is_nan,
    "Log" => :log,
    "Neg" => :negate,
    "Not" => :logical_not,
    "Sigmoid" => :sigmoid,
    "Sign" => :sign,
    "Sin" => :sin,
    "Sinh" => :sinh,
    "Sqrt" => :sqrt,
    "Tan" => :tan,
    "Tanh" => :tanh
  }

  @binary %{
    "Add" => :add,
    "And" => :logical_and,
    "BitwiseAnd" => :bitwise_and,
    "BitwiseOr" => :bitwise_or,
    "BitwiseXor" => :bitwise_xor,
    "Equal" => :equal,
    "Greater" => :greater,
    "GreaterOrEqual" => :greater_equal,
    "Less" => :less,
    "LessOrEqual" => :less_equal,
    "Mul" => :multiply,
    "Or" => :logical_or,
    "Sub" => :subtract,
    "Xor" => :logical_xor
  }

  @doc """
  The outputs of an operator: `n` of them in a tuple, or one tensor where `n` is 1. `ins` maps
  formal names to tensors or lists of such; what is left out is not there.
  """
  def run(op, ins, attrs, n) do
    cond do
      Enum.any?(ins, fn {_, x} -> match?({:empty, _}, x) end) and op in @of_lists ->
        list(op, ins, attrs)

      function = @unary[op] ->
        apply(Nx, function, Map.values(ins))

      function = @binary[op] ->
        apply(Nx, function, [ins["A"], ins["B"]])

      true ->
        one(op, ins, attrs, n)
    end
  end

  # Lists without items, as shapes of numbers without axes are.

  defp list("Cast", _, %{"to" => to}), do: {:empty, Folder.nx_type(Folder.dtype(to))}
  defp list("ReduceProd", %{"data" => {_, type}}, _), do: Nx.tensor([1], type: type)
  defp list("Size", _, _), do: Nx.tensor(0, type: {:s, 64})
  defp list(_, ins, _), do: ins |> Map.values() |> Enum.find(&match?({:empty, _}, &1))

  # Elementwise

  defp one("Div", %{"A" => a, "B" => b}, _, _) do
    if integer?(a), do: Nx.quotient(a, b), else: Nx.divide(a, b)
  end

  defp one("Mod", %{"A" => a, "B" => b}, attrs, _) do
    if attrs["fmod"] == 1 do
      Nx.remainder(a, b)
    else
      rest = Nx.remainder(a, b)

      turned =
        Nx.logical_and(Nx.not_equal(rest, 0), Nx.not_equal(Nx.less(rest, 0), Nx.less(b, 0)))

      where(turned, Nx.add(rest, b), rest)
    end
  end

  defp one("Pow", %{"X" => x, "Y" => y}, _, _) do
    type = Nx.type(x)
    exponent = if integer?(y) and not integer?(x), do: Nx.as_type(y, type), else: y
    Nx.as_type(Nx.pow(x, exponent), type)
  end

  defp one("BitShift", %{"X" => x, "Y" => y}, attrs, _) do
    {_, bits} = Nx.type(x)
    beyond = Nx.logical_or(Nx.less(y, 0), Nx.greater(y, bits - 1))
    inside = where(beyond, zero(y), y)

    if attrs["direction"] == "LEFT" do
      where(beyond, zero(x), Nx.left_shift(x, inside))
    else
      where(beyond, Nx.negate(Nx.as_type(Nx.less(x, 0), Nx.type(x))), Nx.right_shift(x, inside))
    end
  end

  defp one("Reciprocal", %{"X" => x}, _, _), do: Nx.divide(1, x)

  defp one("Round", %{"X" => x}, _, _) do
    floor = Nx.floor(x)
    over = Nx.subtract(x, floor)
    odd = Nx.not_equal(Nx.remainder(floor, 2), 0)
    up = Nx.logical_or(Nx.greater(over, 0.5), Nx.logical_and(Nx.equal(over, 0.5), odd))
    where(up, Nx.add(floor, 1), floor)
  end

  defp one("IsInf", %{"X" => x}, attrs, _) do
    {low, high} = {Map.get(attrs, "detect_negative", 1), Map.get(attrs, "detect_positive", 1)}
    signed = Nx.logical_or(Nx.multiply(Nx.less(x, 0), low), Nx.multiply(Nx.greater(x, 0), high))
    Nx.logical_and(Nx.is_infinity(x), signed)
  end

  defp one("Max", %{"data_0" => all}, _, _), do: Enum.reduce(all, &Nx.max(&2, &1))
  defp one("Min", %{"data_0" => all}, _, _), do: Enum.reduce(all, &Nx.min(&2, &1))
  defp one("Sum", %{"data_0" => all}, _, _), do: Enum.reduce(all, &Nx.add(&2, &1))

  defp one("Mean", %{"data_0" => all}, _, _) do
    Nx.divide(Enum.reduce(all, &Nx.add(&2, &1)), length(all))
  end

  defp one("Clip", %{"input" => x} = ins, _, _) do
    x = if ins["min"], do: Nx.max(x, Nx.reshape(ins["min"], {})), else: x
    if ins["max"], do: Nx.min(x, Nx.reshape(ins["max"], {})), else: x
  end

  defp one("Where", %{"condition" => c, "X" => x, "Y" => y}, _, _), do: where(c, x, y)
  defp one("Identity", %{"input" => x}, _, _), do: x

  defp one("Cast", %{"input" => x}, %{"to" => to}, _) do
    case Folder.dtype(to) do
      "bool" -> Nx.not_equal(x, 0)
      dtype -> Nx.as_type(x, Folder.nx_type(dtype))
    end
  end

  defp one("CastLike", %{"input" => x, "target_type" => like}, _, _),
    do: Nx.as_type(x, Nx.type(like))

  # Activations

  defp one("Relu", %{"X" => x}, _, _), do: Nx.max(x, 0)

  defp one("PRelu", %{"X" => x, "slope" => slope}, _, _),
    do: where(Nx.less(x, 0), Nx.multiply(x, slope), x)

  defp one("Softplus", %{"X" => x}, _, _), do: softplus(x)
  defp one("Softsign", %{"input" => x}, _, _), do: Nx.divide(x, Nx.add(1, Nx.abs(x)))
  defp one("Mish", %{"X" => x}, _, _), do: Nx.multiply(x, Nx.tanh(softplus(x)))
  defp one("HardSwish", %{"X" => x}, _, _), do: Nx.multiply(x, hard_sigmoid(x, 1 / 6, 0.5))

  defp one("HardSigmoid", %{"X" => x}, attrs, _) do
    hard_sigmoid(x, Map.get(attrs, "alpha", 0.2), Map.get(attrs, "beta", 0.5))
  end

  defp one("LeakyRelu", %{"X" => x}, attrs, _), do: leaky(x, Map.get(attrs, "alpha", 0.01))

  defp one("ThresholdedRelu", %{"X" => x}, attrs, _) do
    where(Nx.greater(x, Map.get(attrs, "alpha", 1.0)), x, zero(x))
  end

  defp one("Elu", %{"X" => x}, attrs, _) do
    where(Nx.less(x, 0), Nx.multiply(Map.get(attrs, "alpha", 1.0), Nx.expm1(x)), x)
  end

  defp one("Celu", %{"X" => x}, attrs, _) do
    alpha = Map.get(attrs, "alpha", 1.0)
    Nx.add(Nx.max(x, 0), Nx.min(Nx.multiply(alpha, Nx.expm1(Nx.divide(x, alpha))), 0))
  end

  defp one("Selu", %{"X" => x}, attrs, _) do
    below = Nx.multiply(Map.get(attrs, "alpha", 1.6732632), Nx.expm1(x))
    Nx.multiply(Map.get(attrs, "gamma", 1.050701), where(Nx.greater(x, 0), x, below))
  end

  defp one("Gelu", %{"X" => x}, attrs, _) do
    inner =
      if attrs["approximate"] == "tanh" do
        cubic = Nx.multiply(0.044715, Nx.multiply(x, Nx.multiply(x, x)))
        Nx.tanh(Nx.multiply(:math.sqrt(2 / :math.pi()), Nx.add(x, cubic)))
      else
        Nx.erf(Nx.multiply(x, :math.sqrt(0.5)))
      end

    Nx.multiply(Nx.multiply(0.5, x), Nx.add(1, inner))
  end

  defp one("Swish", %{"X" => x}, attrs, _), do: swish(x, Map.get(attrs, "alpha", 1.0))

  defp one("SwiGLU", %{"A" => a, "B" => b}, attrs, _) do
    Nx.multiply(swish(a, Map.get(attrs, "alpha", 1.0)), b)
  end

  defp one("Shrink", %{"input" => x}, attrs, _) do
    {bias, lambd} = {Map.get(attrs, "bias", 0.0), Map.get(attrs, "lambd", 0.5)}
    above = where(Nx.greater(x, lambd), Nx.subtract(x, bias), zero(x))
    where(Nx.less(x, -lambd), Nx.add(x, bias), above)
  end

  defp one("Softmax", %{"input" => x}, attrs, _) do
    axis = Map.get(attrs, "axis", -1)
    powers = Nx.exp(Nx.subtract(x, Nx.reduce_max(x, axes: [axis], keep_axes: true)))
    Nx.divide(powers, Nx.sum(powers, axes: [axis], keep_axes: true))
  end

  defp one("LogSoftmax", %{"input" => x}, attrs, _) do
    axis = Map.get(attrs, "axis", -1)
    shifted = Nx.subtract(x, Nx.reduce_max(x, axes: [axis], keep_axes: true))
    Nx.subtract(shifted, Nx.log(Nx.sum(Nx.exp(shifted), axes: [axis], keep_axes: true)))
  end

  defp one("Hardmax", %{"input" => x}, attrs, _) do
    axis = axis(Map.get(attrs, "axis", -1), Nx.rank(x))
    first = Nx.argmax(x, axis: axis, keep_axis: true)

    Nx.as_type(
      Nx.equal(first, Nx.iota(Nx.shape(x), axis: axis, type: Nx.type(first))),
      Nx.type(x)
    )
  end

  defp one("Dropout", %{"data" => x}, _, n) do
    if n == 1, do: x, else: {x, Nx.broadcast(Nx.tensor(1, type: {:u, 8}), Nx.shape(x))}
  end

  # Shapes

  defp one("Shape", %{"data" => x}, attrs, _) do
    dims = dims(x)
    rank = length(dims)
    from = bound(Map.get(attrs, "start", 0), rank)
    to = bound(Map.get(attrs, "end", rank), rank)
    kept = Enum.slice(dims, from, max(to - from, 0))
    if kept == [], do: {:empty, {:s, 64}}, else: Nx.tensor(kept, type: {:s, 64})
  end

  defp one("Size", %{"data" => x}, _, _), do: Nx.tensor(Nx.size(x), type: {:s, 64})

  defp one("Reshape", %{"data" => x, "shape" => shape}, attrs, _) do
    given = dims(x)
    copies = attrs["allowzero"] != 1

    asked =
      for {d, i} <- Enum.with_index(ints(shape)),
          do: if(d == 0 and copies, do: Enum.at(given, i), else: d)

    rest = Enum.product(asked -- [-1])
    filled = for d <- asked, do: if(d == -1, do: div(Nx.size(x), rest), else: d)
    Nx.reshape(x, List.to_tuple(filled))
  end

  defp one("Flatten", %{"input" => x}, attrs, _) do
    axis = Map.get(attrs, "axis", 1)
    {before, behind} = Enum.split(dims(x), if(axis < 0, do: axis + Nx.rank(x), else: axis))
    Nx.reshape(x, {Enum.product(before), Enum.product(behind)})
  end

  defp one("Transpose", %{"data" => x}, attrs, _) do
    Nx.transpose(x, axes: attrs["perm"] || Enum.reverse(Nx.axes(x)))
  end

  defp one("Squeeze", %{"data" => x} = ins, _, _) do
    if ins["axes"], do: Nx.squeeze(x, axes: axes(ins["axes"], Nx.rank(x))), else: Nx.squeeze(x)
  end

  defp one("Unsqueeze", %{"data" => x, "axes" => axes}, _, _) do
    rank = Nx.rank(x) + length(ints(axes))
    added = axes(axes, rank)

    {filled, []} =
      Enum.map_reduce(Enum.to_list(0..(rank - 1)//1), dims(x), &next(&1 in added, &2))

    Nx.reshape(x, List.to_tuple(filled))
  end

  defp one("Concat", %{"inputs" => all}, attrs, _) do
    some = Enum.reject(all, &match?({:empty, _}, &1))

    if some == [],
      do: hd(all),
      else: Nx.concatenate(some, axis: axis(attrs["axis"], Nx.rank(hd(some))))
  end

  defp one("Split", %{"input" => x} = ins, attrs, n) do
    axis = axis(Map.get(attrs, "axis", 0), Nx.rank(x))
    total = Nx.axis_size(x, axis)
    count = attrs["num_outputs"] || n
    chunk = div(total + count - 1, count)

    sizes =
      if ins["split"],
        do: ints(ins["split"]),
        else: for(i <- 0..(count - 1), do: min(chunk, total - i * chunk))

    true = Enum.sum(sizes) == total

    {parts, _} = Enum.map_reduce(sizes, 0, &{Nx.slice_along_axis(x, &2, &1, axis: axis), &2 + &1})
    if n == 1, do: hd(parts), else: List.to_tuple(parts)
  end

  defp one("Expand", %{"input" => x, "shape" => shape}, _, _) do
    Nx.broadcast(x, List.to_tuple(common([dims(x), ints(shape)])))
  end

  defp one("Tile", %{"input" => x, "repeats" => repeats}, _, _), do: Nx.tile(x, ints(repeats))

  defp one("Pad", %{"data" => x, "pads" => pads} = ins, attrs, _) do
    axes = if ins["axes"], do: axes(ins["axes"], Nx.rank(x)), else: Nx.axes(x)
    {begins, ends} = halves(ints(pads))
    sides = Enum.zip([axes, begins, ends])

    if Map.get(attrs, "mode", "constant") == "constant" do
      value = if ins["constant_value"], do: Nx.reshape(ins["constant_value"], {}), else: zero(x)
      Nx.pad(x, value, for(a <- Nx.axes(x), do: side(List.keyfind(sides, a, 0))))
    else
      Enum.reduce(sides, x, fn {axis, from, to}, x ->
        Nx.take(x, Nx.tensor(sources(attrs["mode"], Nx.axis_size(x, axis), from, to)), axis: axis)
      end)
    end
  end

  defp one("DepthToSpace", %{"input" => x}, %{"blocksize" => b} = attrs, _) do
    [n, c, h, w] = dims(x)
    depth = div(c, b * b)

    {split, order} =
      case Map.get(attrs, "mode", "DCR") do
        "DCR" -> {{n, b, b, depth, h, w}, [0, 3, 4, 1, 5, 2]}
        "CRD" -> {{n, depth, b, b, h, w}, [0, 1, 4, 2, 5, 3]}
      end

    x |> Nx.reshape(split) |> Nx.transpose(axes: order) |> Nx.reshape({n, depth, h * b, w * b})
  end

  defp one("SpaceToDepth", %{"input" => x}, %{"blocksize" => b} = attrs, _) do
    [n, c, h, w] = dims(x)
    order = if attrs["mode"] == "CRD", do: [0, 1, 3, 5, 2, 4], else: [0, 3, 5, 1, 2, 4]
    blocks = x |> Nx.reshape({n, c, div(h, b), b, div(w, b), b}) |> Nx.transpose(axes: order)
    Nx.reshape(blocks, {n, c * b * b, div(h, b), div(w, b)})
  end

  defp one("ConstantOfShape", %{"input" => shape}, attrs, _) do
    value = attrs["value"] || Nx.tensor(0.0, type: {:f, 32})
    Nx.broadcast(Nx.reshape(value, {}), List.to_tuple(ints(shape)))
  end

  defp one("Range", %{"start" => start, "limit" => limit, "delta" => delta}, _, _) do
    [a, z, step] = for t <- [start, limit, delta], do: t |> Nx.reshape({}) |> Nx.to_number()
    count = if is_integer(a), do: -Integer.floor_div(a - z, step), else: ceil((z - a) / step)
    Nx.add(a, Nx.multiply(step, Nx.iota({count}, type: Nx.type(start))))
  end

  # Places

  defp one("Slice", %{"data" => x, "starts" => starts, "ends" => ends} = ins, _, _) do
    {starts, ends} = {ints(starts), ints(ends)}

    axes =
      if ins["axes"],
        do: axes(ins["axes"], Nx.rank(x)),
        else: Enum.take(Nx.axes(x), length(starts))

    steps = if ins["steps"], do: ints(ins["steps"]), else: Enum.map(starts, fn _ -> 1 end)

    Enum.reduce(Enum.zip([axes, starts, ends, steps]), x, fn {axis, from, to, step}, x ->
      cut(x, axis, from, to, step)
    end)
  end

  defp one("Gather", %{"data" => x, "indices" => places}, attrs, _) do
    axis = axis(Map.get(attrs, "axis", 0), Nx.rank(x))
    Nx.take(x, from_front(places, Nx.axis_size(x, axis)), axis: axis)
  end

  defp one("GatherElements", %{"data" => x, "indices" => places}, attrs, _) do
    axis = axis(Map.get(attrs, "axis", 0), Nx.rank(x))

    cut =
      for {a, size} <- Enum.zip(Nx.axes(x), dims(places)), a != axis, reduce: x do
        x -> Nx.slice_along_axis(x, 0, size, axis: a)
      end

    Nx.take_along_axis(cut, from_front(places, Nx.axis_size(x, axis)), axis: axis)
  end

  defp one("GatherND", %{"data" => x, "indices" => places}, attrs, _) do
    {rows, count, rest} = rows(x, places, Map.get(attrs, "batch_dims", 0))
    taken = Nx.take(Nx.reshape(x, List.to_tuple([count | rest])), rows, axis: 0)
    Nx.reshape(taken, List.to_tuple(Enum.drop(dims(places), -1) ++ rest))
  end

  defp one("ScatterND", %{"data" => x, "indices" => places, "updates" => updates}, attrs, _) do
    {rows, count, rest} = rows(x, places, 0)
    written = scatter(attrs, Nx.reshape(x, {count, Enum.product(rest)}), rows, updates)
    Nx.reshape(written, Nx.shape(x))
  end

  defp one("ScatterElements", %{"data" => x, "indices" => places, "updates" => updates}, attrs, _) do
    axis = axis(Map.get(attrs, "axis", 0), Nx.rank(x))
    places = from_front(places, Nx.axis_size(x, axis))
    shape = Nx.shape(places)

    rows =
      for {stride, a} <- Enum.with_index(strides(dims(x))), reduce: 0 do
        sum ->
          along = if a == axis, do: places, else: Nx.iota(shape, axis: a, type: Nx.type(places))
          Nx.add(sum, Nx.multiply(along, stride))
      end

    written =
      scatter(attrs, Nx.reshape(x, {Nx.size(x), 1}), Nx.reshape(rows, {Nx.size(rows)}), updates)

    Nx.reshape(written, Nx.shape(x))
  end

  # Reductions

  defp one("Reduce" <> kind, %{"data" => x} = ins, attrs, _) do
    named = if ins["axes"], do: axes(ins["axes"], Nx.rank(x)), else: []
    before = reduce_before(kind, x)

    folded =
      if named == [] and attrs["noop_with_empty_axes"] == 1 do
        before
      else
        chosen = if named == [], do: Nx.axes(x), else: named
        fold(kind, before, axes: chosen, keep_axes: Map.get(attrs, "keepdims", 1) == 1)
      end

    Nx.as_type(reduce_after(kind, folded), Nx.type(x))
  end

  defp one("Arg" <> which, %{"data" => x}, attrs, _) do
    tie = if attrs["select_last_index"] == 1, do: :high, else: :low
    keep = Map.get(attrs, "keepdims", 1) == 1
    opts = [axis: axis(Map.get(attrs, "axis", 0), Nx.rank(x)), keep_axis: keep, tie_break: tie]
    found = if which == "Max", do: Nx.argmax(x, opts), else: Nx.argmin(x, opts)
    Nx.as_type(found, {:s, 64})
  end

  defp one("Cum" <> kind, %{"x" => x, "axis" => axis}, attrs, _) do
    axis = axis(hd(ints(axis)), Nx.rank(x))
    x = if attrs["reverse"] == 1, do: Nx.reverse(x, axes: [axis]), else: x
    {function, first} = if kind == "Sum", do: {:cumulative_sum, 0}, else: {:cumulative_product, 1}
    y = Nx.as_type(apply(Nx, function, [x, [axis: axis]]), Nx.type(x))
    y = if attrs["exclusive"] == 1, do: shift(y, axis, first), else: y
    if attrs["reverse"] == 1, do: Nx.reverse(y, axes: [axis]), else: y
  end

  defp one("TopK", %{"X" => x, "K" => k}, attrs, n) do
    axis = axis(Map.get(attrs, "axis", -1), Nx.rank(x))
    order = order(x, axis, Map.get(attrs, "largest", 1) == 1)
    indices = Nx.slice_along_axis(order, 0, hd(ints(k)), axis: axis)
    values = Nx.take_along_axis(x, indices, axis: axis)
    if n == 1, do: values, else: {values, Nx.as_type(indices, {:s, 64})}
  end

  # Products

  defp one("MatMul", %{"A" => a, "B" => b}, _, _), do: matmul(a, b)

  defp one("Gemm", %{"A" => a, "B" => b} = ins, attrs, _) do
    a = if attrs["transA"] == 1, do: Nx.transpose(a), else: a
    b = if attrs["transB"] == 1, do: Nx.transpose(b), else: b
    y = scaled(Nx.dot(a, b), Map.get(attrs, "alpha", 1.0))
    beta = Map.get(attrs, "beta", 1.0)
    if ins["C"] && beta != 0, do: Nx.add(y, scaled(ins["C"], beta)), else: y
  end

  defp one("Einsum", %{"Inputs" => all}, %{"equation" => equation}, _), do: einsum(equation, all)

  # Windows

  defp one("Conv", %{"X" => x, "W" => w} = ins, attrs, _) do
    geometry = window(Enum.drop(dims(x), 2), Enum.drop(dims(w), 2), attrs)

    x
    |> Nx.conv(w,
      strides: geometry.strides,
      padding: geometry.pads,
      kernel_dilation: geometry.dilations,
      feature_group_size: Map.get(attrs, "group", 1)
    )
    |> with_bias(ins["B"])
  end

  defp one("com.microsoft.FusedConv", %{"X" => _} = ins, attrs, _) do
    y = one("Conv", Map.take(ins, ~w(X W B)), attrs, 1)
    y = if ins["Z"], do: Nx.add(y, ins["Z"]), else: y

    case {attrs["activation"], attrs["activation_params"] || []} do
      {none, []} when none in [nil, ""] -> y
      {"Relu", []} -> Nx.max(y, 0)
      {"Sigmoid", []} -> Nx.sigmoid(y)
      {"Tanh", []} -> Nx.tanh(y)
      {"LeakyRelu", [alpha]} -> leaky(y, alpha)
      {"Clip", [low, high]} -> Nx.min(Nx.max(y, low), high)
      {"HardSigmoid", [alpha, beta]} -> hard_sigmoid(y, alpha, beta)
    end
  end

  defp one("ConvTranspose", %{"X" => x, "W" => w} = ins, attrs, _) do
    [c, share | kernel] = dims(w)
    group = Map.get(attrs, "group", 1)
    rank = length(kernel)
    spatial = Enum.to_list(3..(rank + 2))
    grouped = Nx.reshape(w, List.to_tuple([group, div(c, group), share | kernel]))
    turned = Nx.reverse(Nx.transpose(grouped, axes: [0, 2, 1 | spatial]), axes: spatial)
    kernels = Nx.reshape(turned, List.to_tuple([group * share, div(c, group) | kernel]))
    {strides, dilations, pads} = transposed(Enum.drop(dims(x), 2), kernel, attrs)

    x
    |> Nx.conv(kernels,
      input_dilation: strides,
      kernel_dilation: dilations,
      padding: pads,
      feature_group_size: group
    )
    |> with_bias(ins["B"])
  end

  defp one("MaxPool", %{"X" => x}, %{"kernel_shape" => kernel} = attrs, _) do
    geometry = window(Enum.drop(dims(x), 2), kernel, attrs)
    Nx.window_max(x, box(kernel), sliding(geometry, geometry.full))
  end

  defp one("LpPool", %{"X" => x}, %{"kernel_shape" => kernel} = attrs, _) do
    geometry = window(Enum.drop(dims(x), 2), kernel, attrs)
    p = Map.get(attrs, "p", 2)

    Nx.pow(
      Nx.window_sum(Nx.pow(Nx.abs(x), p), box(kernel), sliding(geometry, geometry.full)),
      1 / p
    )
  end

  defp one("AveragePool", %{"X" => x}, %{"kernel_shape" => kernel} = attrs, _) do
    geometry = window(Enum.drop(dims(x), 2), kernel, attrs)
    total = Nx.window_sum(x, box(kernel), sliding(geometry, geometry.full))

    Nx.divide(
      total,
      counts(dims(x), kernel, geometry, Map.get(attrs, "count_include_pad", 0), Nx.type(x))
    )
  end

  defp one("GlobalAveragePool", %{"X" => x}, _, _),
    do: Nx.mean(x, axes: spatial(x), keep_axes: true)

  defp one("GlobalMaxPool", %{"X" => x}, _, _),
    do: Nx.reduce_max(x, axes: spatial(x), keep_axes: true)

  defp one("GlobalLpPool", %{"X" => x}, attrs, _) do
    p = Map.get(attrs, "p", 2)
    Nx.pow(Nx.sum(Nx.pow(Nx.abs(x), p), axes: spatial(x), keep_axes: true), 1 / p)
  end

  # Normalisations

  defp one("BatchNormalization", %{"X" => x} = ins, attrs, _) do
    epsilon = Map.get(attrs, "epsilon", 1.0e-5)
    factor = Nx.divide(ins["scale"], Nx.sqrt(Nx.add(ins["input_var"], epsilon)))
    centred = Nx.subtract(x, channel(ins["input_mean"], x))
    Nx.add(Nx.multiply(centred, channel(factor, x)), channel(ins["B"], x))
  end

  defp one("InstanceNormalization", %{"input" => x, "scale" => scale, "B" => b}, attrs, _) do
    {normal, _, _} = standardized(x, spatial(x), Map.get(attrs, "epsilon", 1.0e-5))
    Nx.add(Nx.multiply(normal, channel(scale, x)), channel(b, x))
  end

  defp one("GroupNormalization", %{"X" => x, "scale" => scale, "bias" => bias}, attrs, _) do
    [n | rest] = dims(x)
    groups = attrs["num_groups"]
    grouped = Nx.reshape(x, {n, groups, div(Enum.product(rest), groups)})
    {normal, _, _} = standardized(grouped, [2], Map.get(attrs, "epsilon", 1.0e-5))
    Nx.add(Nx.multiply(Nx.reshape(normal, Nx.shape(x)), channel(scale, x)), channel(bias, x))
  end

  defp one("LayerNormalization", %{"X" => x, "Scale" => scale} = ins, attrs, n) do
    axes = trailing(x, attrs)
    {normal, mean, inverse} = standardized(x, axes, Map.get(attrs, "epsilon", 1.0e-5))
    y = Nx.multiply(normal, scale)
    y = if ins["B"], do: Nx.add(y, ins["B"]), else: y
    if n == 1, do: y, else: List.to_tuple(Enum.take([y, mean, inverse], n))
  end

  defp one("RMSNormalization", %{"X" => x, "scale" => scale}, attrs, _) do
    square = Nx.mean(Nx.multiply(x, x), axes: trailing(x, attrs), keep_axes: true)
    root = Nx.sqrt(Nx.add(square, Map.get(attrs, "epsilon", 1.0e-5)))
    Nx.multiply(Nx.divide(x, root), scale)
  end

  defp one("MeanVarianceNormalization", %{"X" => x}, attrs, _) do
    axes = for a <- Map.get(attrs, "axes", [0, 2, 3]), do: axis(a, Nx.rank(x))
    centred = Nx.subtract(x, Nx.mean(x, axes: axes, keep_axes: true))
    deviation = Nx.sqrt(Nx.mean(Nx.multiply(centred, centred), axes: axes, keep_axes: true))
    Nx.divide(centred, Nx.add(deviation, 1.0e-9))
  end

  defp one("LpNormalization", %{"input" => x}, attrs, _) do
    axes = [axis(Map.get(attrs, "axis", -1), Nx.rank(x))]
    p = Map.get(attrs, "p", 2)
    sizes = if p == 1, do: Nx.abs(x), else: Nx.multiply(x, x)
    norm = Nx.sum(sizes, axes: axes, keep_axes: true)
    norm = if p == 1, do: norm, else: Nx.sqrt(norm)
    empty = Nx.equal(norm, 0)
    where(empty, zero(x), Nx.divide(x, where(empty, Nx.tensor(1, type: Nx.type(x)), norm)))
  end

  defp one("LRN", %{"X" => x}, %{"size" => size} = attrs, _) do
    before = div(size - 1, 2)
    pads = [{0, 0}, {before, size - 1 - before} | List.duplicate({0, 0}, Nx.rank(x) - 2)]
    under = List.to_tuple([1, size | List.duplicate(1, Nx.rank(x) - 2)])
    ones = List.duplicate(1, Nx.rank(x))
    total = Nx.window_sum(Nx.multiply(x, x), under, padding: pads, strides: ones)
    scale = Map.get(attrs, "alpha", 0.0001) / size
    base = Nx.add(Map.get(attrs, "bias", 1.0), Nx.multiply(scale, total))
    Nx.divide(x, Nx.pow(base, Map.get(attrs, "beta", 0.75)))
  end

  # Helpers

  defp integer?(x), do: elem(Nx.type(x), 0) in [:s, :u]
  defp dims(x), do: Tuple.to_list(Nx.shape(x))
  @doc "The elements of a tensor of integers at hand, which may be without any."
  def ints({:empty, _}), do: []
  def ints(x), do: Nx.to_flat_list(x)

  defp zero(x), do: Nx.tensor(0, type: Nx.type(x))
  defp axes(x, rank), do: for(a <- ints(x), do: axis(a, rank))
  defp axis(axis, rank) when axis >= -rank and axis < rank, do: Integer.mod(axis, rank)
  defp axis(axis, rank), do: raise(ArgumentError, "axis #{axis} is outside a rank of #{rank}")
  defp bound(place, rank), do: min(max(if(place < 0, do: place + rank, else: place), 0), rank)
  defp spatial(x), do: Enum.to_list(2..(Nx.rank(x) - 1))
  defp next(true, dims), do: {1, dims}
  defp next(false, [d | dims]), do: {d, dims}
  defp halves(list), do: Enum.split(list, div(length(list), 2))
  defp side(nil), do: {0, 0, 0}
  defp side({_, from, to}), do: {from, to, 0}
  defp leaky(x, alpha), do: where(Nx.less(x, 0), Nx.multiply(x, alpha), x)
  defp swish(x, alpha), do: Nx.multiply(x, Nx.sigmoid(Nx.multiply(alpha, x)))
  defp scaled(x, factor) when factor == 1, do: x
  defp scaled(x, factor), do: Nx.multiply(x, if(integer?(x), do: trunc(factor), else: factor))
  defp softplus(x), do: Nx.add(Nx.max(x, 0), Nx.log1p(Nx.exp(Nx.negate(Nx.abs(x)))))

  defp hard_sigmoid(x, alpha, beta) do
    Nx.min(Nx.max(Nx.add(Nx.multiply(alpha, x), beta), 0), 1)
  end

  # Nx broadcasts the branches to the condition alone.
  defp where(condition, x, y) do
    shape = List.to_tuple(common([dims(condition), dims(x), dims(y)]))
    Nx.select(Nx.broadcast(condition, shape), Nx.broadcast(x, shape), Nx.broadcast(y, shape))
  end

  defp common(shapes) do
    rank = shapes |> Enum.map(&length/1) |> Enum.max()
    full = for s <- shapes, do: List.duplicate(1, rank - length(s)) ++ s
    Enum.zip_with(full, fn sizes -> Enum.find(sizes, 1, &(&1 != 1)) end)
  end

  defp from_front(places, size), do: where(Nx.less(places, 0), Nx.add(places, size), places)

  defp cut({:empty, _} = x, _, _, _, _), do: x

  defp cut(x, axis, from, to, step) do
    size = Nx.axis_size(x, axis)
    {low, high} = if step > 0, do: {0, size}, else: {-1, size - 1}
    from = if from < 0, do: max(from + size, 0), else: from
    to = if to < 0, do: to + size, else: to
    {from, to} = {min(max(from, max(low, 0)), high), min(max(to, low), high)}
    count = max(div(to - from + step - sign(step), step), 0)

    if count == 0 and Nx.rank(x) == 1,
      do: {:empty, Nx.type(x)},
      else: taken(x, axis, from, to, step, count)
  end

  defp taken(x, axis, from, to, step, count) do
    {first, length} =
      if step > 0,
        do: {from, to - from},
        else: {from + (count - 1) * step, (count - 1) * -step + 1}

    lengths = List.replace_at(dims(x), axis, length)
    starts = List.replace_at(List.duplicate(0, Nx.rank(x)), axis, first)
    strides = List.replace_at(List.duplicate(1, Nx.rank(x)), axis, abs(step))
    kept = Nx.slice(x, starts, lengths, strides: strides)
    if step < 0, do: Nx.reverse(kept, axes: [axis]), else: kept
  end

  defp sign(step), do: if(step > 0, do: 1, else: -1)

  defp sources("edge", size, from, to),
    do: for(i <- -from..(size + to - 1), do: min(max(i, 0), size - 1))

  defp sources("wrap", size, from, to),
    do: for(i <- -from..(size + to - 1), do: Integer.mod(i, size))

  defp sources("reflect", size, from, to) do
    period = max(2 * (size - 1), 1)
    for i <- -from..(size + to - 1), p = Integer.mod(i, period), do: min(p, period - p)
  end

  defp strides(dims) do
    dims |> Enum.reverse() |> Enum.scan(&*/2) |> Enum.reverse() |> Enum.drop(1) |> Kernel.++([1])
  end

  # Which row of the leading axes each tuple of places names, how many rows there are, and what a
  # row's shape is.
  defp rows(x, places, batch) do
    [depth | leading] = Enum.reverse(dims(places))
    {sizes, rest} = Enum.split(dims(x), batch + depth)
    {batches, inner} = Enum.split(sizes, batch)
    count = Enum.product(leading)
    flat = Nx.as_type(Nx.reshape(places, {count, depth}), {:s, 64})
    each = div(count, max(Enum.product(batches), 1))
    own = Nx.quotient(Nx.iota({count}, type: {:s, 64}), each)

    rows =
      for {{size, stride}, i} <- Enum.with_index(Enum.zip(inner, strides(inner))),
          reduce: Nx.multiply(own, Enum.product(inner)) do
        sum ->
          column = Nx.reshape(Nx.slice_along_axis(flat, i, 1, axis: 1), {count})
          Nx.add(sum, Nx.multiply(from_front(column, size), stride))
      end

    {if(batch == 0, do: Nx.subtract(rows, Nx.multiply(own, Enum.product(inner))), else: rows),
     Enum.product(sizes), rest}
  end

  defp scatter(attrs, x, rows, updates) do
    count = Nx.size(rows)
    index = Nx.reshape(rows, {count, 1})
    updates = Nx.reshape(updates, {count, Nx.axis_size(x, 1)})

    if attrs["reduction"] == "add",
      do: Nx.indexed_add(x, index, updates),
      else: Nx.indexed_put(x, index, updates)
  end

  defp reduce_before(kind, x) when kind in ["L2", "SumSquare"], do: Nx.multiply(x, x)
  defp reduce_before("L1", x), do: Nx.abs(x)
  defp reduce_before(_, x), do: x

  defp reduce_after("L2", x), do: Nx.sqrt(x)
  defp reduce_after("LogSum", x), do: Nx.log(x)
  defp reduce_after(_, x), do: x

  defp fold("Max", x, opts), do: Nx.reduce_max(x, opts)
  defp fold("Min", x, opts), do: Nx.reduce_min(x, opts)
  defp fold("Prod", x, opts), do: Nx.product(x, opts)

  defp fold("Mean", x, opts) do
    if integer?(x) do
      count = Enum.product(for a <- opts[:axes], do: Nx.axis_size(x, a))
      Nx.quotient(Nx.sum(x, opts), count)
    else
      Nx.mean(x, opts)
    end
  end

  defp fold("LogSumExp", x, opts) do
    top = Nx.reduce_max(x, axes: opts[:axes], keep_axes: true)
    top = where(Nx.is_infinity(top), zero(x), top)

    total =
      Nx.add(Nx.log(Nx.sum(Nx.exp(Nx.subtract(x, top)), axes: opts[:axes], keep_axes: true)), top)

    if opts[:keep_axes], do: total, else: Nx.squeeze(total, axes: opts[:axes])
  end

  defp fold(_, x, opts), do: Nx.sum(x, opts)

  defp shift(x, axis, first) do
    size = Nx.axis_size(x, axis)
    sides = for a <- Nx.axes(x), do: if(a == axis, do: {1, 0, 0}, else: {0, 0, 0})
    Nx.slice_along_axis(Nx.pad(x, Nx.tensor(first, type: Nx.type(x)), sides), 0, size, axis: axis)
  end

  # The places from the greatest element (or the least), the lower one first among equals: sorting
  # the other way what is turned round, and turning that round.
  defp order(x, axis, false), do: Nx.argsort(x, axis: axis, direction: :asc, stable: true)

  defp order(x, axis, true) do
    size = Nx.axis_size(x, axis)
    turned = Nx.argsort(Nx.reverse(x, axes: [axis]), axis: axis, direction: :asc, stable: true)
    Nx.subtract(size - 1, Nx.reverse(turned, axes: [axis]))
  end

  defp matmul(a, b) do
    case {Nx.rank(a), Nx.rank(b)} do
      {1, 1} -> Nx.dot(a, b)
      {1, _} -> Nx.squeeze(matmul(Nx.new_axis(a, 0), b), axes: [-2])
      {_, 1} -> Nx.squeeze(matmul(a, Nx.new_axis(b, 1)), axes: [-1])
      {_, 2} -> Nx.dot(a, [-1], b, [0])
      _ -> batched(a, b)
    end
  end

  defp batched(a, b) do
    {batch_a, inner_a} = Enum.split(dims(a), -2)
    {batch_b, inner_b} = Enum.split(dims(b), -2)
    batch = common([batch_a, batch_b])
    rank = length(batch)
    axes = Enum.to_list(0..(rank - 1))
    a = Nx.broadcast(a, List.to_tuple(batch ++ inner_a))
    b = Nx.broadcast(b, List.to_tuple(batch ++ inner_b))
    Nx.dot(a, [rank + 1], axes, b, [rank], axes)
  end

  defp einsum(equation, all) do
    {terms, wanted} = letters(equation, Enum.map(all, &Nx.rank/1))
    [first | others] = Enum.zip(all, terms)

    later =
      Enum.scan(Enum.reverse(tl(terms)), wanted, &(&1 ++ &2)) |> Enum.reverse() |> Enum.drop(1)

    {x, letters} =
      Enum.zip_reduce(others, later ++ [wanted], first, fn {y, b}, kept, {x, a} ->
        contract(x, a, y, b, kept)
      end)

    {x, letters} = summed(x, letters, wanted)

    if letters == wanted,
      do: x,
      else: Nx.transpose(x, axes: for(c <- wanted, do: Enum.find_index(letters, &(&1 == c))))
  end

  defp letters(equation, ranks) do
    [left | right] = equation |> String.replace(" ", "") |> String.split("->")
    terms = String.split(left, ",")

    widths =
      for {t, rank} <- Enum.zip(terms, ranks), t =~ "...", do: rank - (String.length(t) - 3)

    width = Enum.max(widths, fn -> 0 end)

    spelt = fn term, width ->
      hidden = "9876543210" |> String.slice(10 - width, width)
      term |> String.replace("...", hidden) |> String.graphemes()
    end

    split =
      for {t, rank} <- Enum.zip(terms, ranks),
          do: spelt.(t, if(t =~ "...", do: rank - (String.length(t) - 3), else: 0))

    case right do
      [wanted] ->
        {split, spelt.(wanted, width)}

      [] ->
        once = for {c, 1} <- Enum.frequencies(List.flatten(split)), c =~ ~r/[A-Za-z]/, do: c
        {split, spelt.("...", width) ++ Enum.sort(once)}
    end
  end

  defp summed(x, letters, kept) do
    case for {c, i} <- Enum.with_index(letters), c not in kept, do: i do
      [] -> {x, letters}
      axes -> {Nx.sum(x, axes: axes), Enum.filter(letters, &(&1 in kept))}
    end
  end

  # Two operands as one batched product: letters of both that somebody asks for later are the
  # batch, letters of both that nobody asks for are contracted.
  defp contract(x, a, y, b, later) do
    {x, a} = summed(x, a, later ++ b)
    {y, b} = summed(y, b, later ++ a)
    batch = for c <- a, c in b, c in later, do: c
    inner = for c <- a, c in b, c not in later, do: c
    {x, a} = arranged(x, a, batch)
    {y, b} = arranged(y, b, batch)
    axes = Enum.take(Enum.to_list(0..63), length(batch))
    at = fn letters -> for c <- inner, do: Enum.find_index(letters, &(&1 == c)) end
    [rows, columns] = for letters <- [a, b], do: letters -- (batch ++ inner)
    {Nx.dot(x, at.(a), axes, y, at.(b), axes), batch ++ rows ++ columns}
  end

  defp arranged(x, letters, batch) do
    order = batch ++ (letters -- batch)
    {Nx.transpose(x, axes: for(c <- order, do: Enum.find_index(letters, &(&1 == c)))), order}
  end

  defp with_bias(y, nil), do: y
  defp with_bias(y, bias), do: Nx.add(y, channel(bias, y))

  # A parameter [C] in the shape that meets [N, C, D1, …].
  defp channel(parameter, x) do
    Nx.reshape(
      parameter,
      List.to_tuple([1, Nx.size(parameter) | List.duplicate(1, Nx.rank(x) - 2)])
    )
  end

  defp standardized(x, axes, epsilon) do
    mean = Nx.mean(x, axes: axes, keep_axes: true)
    centred = Nx.subtract(x, mean)
    variance = Nx.mean(Nx.multiply(centred, centred), axes: axes, keep_axes: true)
    inverse = Nx.divide(1, Nx.sqrt(Nx.add(variance, epsilon)))
    {Nx.multiply(centred, inverse), mean, inverse}
  end

  defp trailing(x, attrs),
    do: Enum.to_list(axis(Map.get(attrs, "axis", -1), Nx.rank(x))..(Nx.rank(x) - 1))

  @doc """
  The geometry of Conv and the pools: `:strides`, `:dilations`, `:pads`, and `:full`, the pads with
  what the last window reaches beyond them under ceil_mode.
  """
  def window(size, kernel, attrs) do
    ones = Enum.map(kernel, fn _ -> 1 end)
    strides = attrs["strides"] || ones
    dilations = attrs["dilations"] || ones
    auto = Map.get(attrs, "auto_pad", "NOTSET")

    {begins, ends} =
      if auto == "NOTSET",
        do: halves(attrs["pads"] || (ones ++ ones) |> Enum.map(&(&1 - 1))),
        else: halves(List.duplicate(0, 2 * length(kernel)))

    sides =
      for {n, k, s, d, from, to} <- Enum.zip([size, kernel, strides, dilations, begins, ends]) do
        reach = d * (k - 1) + 1

        {from, to} =
          if auto in ["SAME_UPPER", "SAME_LOWER"],
            do: shared(max((div(n + s - 1, s) - 1) * s + reach - n, 0), auto == "SAME_LOWER"),
            else: {from, to}

        over =
          if attrs["ceil_mode"] == 1 and auto not in ["SAME_UPPER", "SAME_LOWER"],
            do: overhang(n, s, reach, from, to),
            else: 0

        {{from, to}, {from, to + over}}
      end

    {pads, full} = Enum.unzip(sides)
    %{strides: strides, dilations: dilations, pads: pads, full: full}
  end

  defp overhang(n, s, reach, from, to) do
    room = n + from + to - reach
    count = div(room + s - 1, s) + 1
    count = if (count - 1) * s >= n + from, do: count - 1, else: count
    max((count - 1) * s + reach - (n + from + to), 0)
  end

  # An odd one makes one end greater; what is asked beyond the full result stands at the end.
  defp shared(total, greater_first) do
    small = div(max(total, 0), 2)
    if greater_first and total > 0, do: {total - small, small}, else: {small, total - small}
  end

  defp transposed(size, kernel, attrs) do
    ones = Enum.map(kernel, fn _ -> 1 end)
    zeros = Enum.map(kernel, fn _ -> 0 end)
    strides = attrs["strides"] || ones
    dilations = attrs["dilations"] || ones
    auto = Map.get(attrs, "auto_pad", "NOTSET")

    {begins, ends} =
      halves(if(auto == "NOTSET" && attrs["pads"], do: attrs["pads"], else: zeros ++ zeros))

    more = attrs["output_padding"] || zeros
    asked = attrs["output_shape"] || Enum.map(kernel, fn _ -> nil end)

    pads =
      for {n, k, s, d, from, to, extra, wanted} <-
            Enum.zip([size, kernel, strides, dilations, begins, ends, more, asked]) do
        reach = d * (k - 1) + 1
        full = s * (n - 1) + extra + reach

        wanted =
          if wanted == nil and auto in ["SAME_UPPER", "SAME_LOWER"], do: n * s, else: wanted

        {from, to} = if wanted, do: shared(full - wanted, auto != "SAME_UPPER"), else: {from, to}
        low = reach - 1 - from
        {low, full - from - to + reach - 2 - s * (n - 1) - low}
      end

    {strides, dilations, pads}
  end

  defp box(kernel), do: List.to_tuple([1, 1 | kernel])

  defp sliding(geometry, pads) do
    [
      strides: [1, 1 | geometry.strides],
      padding: [{0, 0}, {0, 0} | pads],
      window_dilations: [1, 1 | geometry.dilations]
    ]
  end

  # How many elements each window holds: numbers of the model, not of its input.
  defp counts([_, _ | size], kernel, geometry, include_pad, type) do
    ones = Nx.broadcast(Nx.tensor(1, type: type), List.to_tuple([1, 1 | size]))

    {ones, pads} =
      if include_pad == 1 do
        sides = [
          {0, 0, 0},
          {0, 0, 0} | Enum.map(geometry.pads, fn {from, to} -> {from, to, 0} end)
        ]

        past =
          Enum.zip_with(geometry.full, geometry.pads, fn {_, full}, {_, to} -> {0, full - to} end)

        {Nx.pad(ones, Nx.tensor(1, type: type), sides), past}
      else
        {ones, geometry.full}
      end

    Nx.window_sum(ones, box(kernel), sliding(geometry, pads))
  end
end

defmodule AxonHub.Build do
  @moduledoc """
  A graph becomes an Axon model, layer by layer. What is known of a value is one of:

      {:run, axon}             it is computed when the model runs
      {:known, tensor}         it is a weight, or follows from weights alone
      {:shapes, sources, fun, how}
                               it follows from the shapes of other values, and is computed by
                               `fun.(shapes)` while the model is compiled; `how` is the operator
                               and what it reads, for the way back
      :lost                    the layer that makes it has a problem already

  Weights of explicit Axon layers and of computed ones are parameters under the layer's own name, so
  that they can be trained; single numbers, and all that is no float, stay constants.
  """

  alias AxonHub.{Error, Folder, Operators}

  @compile {:no_warn_undefined, [Nx, Nx.Defn, Axon, Axon.MixedPrecision]}

  @most_inputs 64
  @most_elements 268_435_456

  @doc "The model and its state. Raises `AxonHub.Error` with everything that Axon cannot say."
  def build!(graph, folder) do
    start = %{
      env: values(graph),
      state: %{},
      problems: Enum.reverse(beforehand(graph)),
      tensors: graph.tensors,
      ranks: graph.ranks
    }

    built = Enum.reduce(graph.layers, start, &layer/2)
    outputs = for {name, _, _} <- graph.outputs, do: {name, output(built.env[name], name)}
    problems = Enum.reverse(built.problems)

    if problems == [] do
      model = whole(outputs)
      faults = compare(model, built.state, graph)
      if faults == [], do: {model, state(model, built.state)}, else: refuse(folder, faults)
    else
      refuse(folder, problems)
    end
  end

  defp refuse(folder, problems) do
    raise Error.new(
            "cannot open the model in '#{folder}' in Axon:",
            problems,
            "Nothing else of it is in the way."
          )
  end

  # Before Axon 0.7 every layer computes in f32, whatever it is given.
  defp beforehand(graph) do
    narrow = Axon.MixedPrecision.create_policy().compute != nil
    floats = for "float" <> bits = dtype <- graph.dtypes, bits != "32", do: dtype
    halves = for "bfloat16" <- graph.dtypes, do: "bfloat16"
    old = for dtype <- floats ++ halves, narrow, do: "#{dtype} needs Axon 0.7 or later"

    strange =
      for {name, dtype, _} <- graph.inputs,
          Folder.nx_type(dtype) == nil,
          do: "input '#{name}' is #{dtype}"

    old ++ strange
  end

  defp values(graph) do
    inputs =
      for {name, dtype, shape} <- graph.inputs,
          into: %{},
          do: {name, {:run, typed(input(name, shape), name, dtype)}}

    weights = for {name, weight} <- graph.tensors, into: %{}, do: {name, {:weight, weight}}
    Map.merge(inputs, weights)
  end

  # An Axon input has no element type; a layer that does nothing remembers it for the way back.
  defp typed(axon, _, "float32"), do: axon

  defp typed(axon, name, dtype) do
    onnx = AxonHub.Onnx.new(:input, [], %{"dtype" => dtype}, 1, [])

    Axon.layer(fn x, _ -> x end, [axon],
      name: name <> ": " <> dtype,
      op_name: :input_type,
      onnx: onnx
    )
  end

  defp input(name, nil), do: Axon.input(name)

  defp input(name, shape) do
    Axon.input(name, shape: List.to_tuple(for(d <- shape, do: if(is_integer(d), do: d))))
  end

  defp layer(layer, built) do
    case Operators.faults(layer) do
      [] -> known(layer, built)
      faults -> lose(layer, built, faults)
    end
  end

  defp lose(layer, built, faults) do
    problems = for fault <- faults, do: "layer '#{layer.name}' (#{layer.op}): #{fault}"
    env = for name <- layer.outputs, name != "", into: built.env, do: {name, :lost}
    %{built | env: env, problems: Enum.reverse(problems) ++ built.problems}
  end

  defp known(layer, built) do
    ins = Map.new(layer.inputs, fn {formal, names} -> {formal, fetch(names, built.env)} end)
    attrs = Map.new(layer.attrs, fn {key, attr} -> {key, attr(attr, built)} end)
    flat = List.flatten(Map.values(ins))

    cond do
      :lost in flat -> lose(layer, built, [])
      Enum.any?(flat, &(&1 == :text)) -> lose(layer, built, ["it reads text, and Nx has none"])
      reason = unknown(layer, ins) -> lose(layer, built, [reason])
      true -> made(%{layer | attrs: attrs}, ins, flat, built)
    end
  rescue
    error in Error ->
      lose(layer, built, error.problems)

    error in [
      ArgumentError,
      MatchError,
      FunctionClauseError,
      CaseClauseError,
      ArithmeticError,
      RuntimeError
    ] ->
      lose(layer, built, ["it does not fit: " <> first_line(error)])
  end

  defp first_line(error), do: error |> Exception.message() |> String.split("\n") |> hd()

  defp fetch(names, env) when is_list(names), do: Enum.map(names, &fetch(&1, env))

  defp fetch(name, env) do
    case env[name] do
      {:weight, weight} ->
        with tensor when tensor != nil <- Folder.tensor!(weight),
             do: {:known, tensor},
             else: (nil -> :text)

      value ->
        value
    end
  end

  defp attr({:tensor, name}, built), do: Folder.tensor!(built.tensors[name])
  defp attr(attr, _), do: attr

  # What must be known while the model is compiled, and is computed by it.
  defp unknown(%{op: "Dropout"}, %{"training_mode" => mode}) do
    unless match?({:known, _}, mode) and mode |> elem(1) |> Nx.reshape({}) |> Nx.to_number() == 0 do
      "it may drop elements at inference too (training_mode)"
    end
  end

  defp unknown(layer, ins) do
    formals = Operators.schema(layer.op).formals

    Enum.find_value(formals, fn {formal, marks} ->
      if marks.known and match?({:run, _}, ins[formal]) and layer.op != "Dropout" do
        "its #{formal} depends on the data, and Nx must know all shapes beforehand"
      end
    end)
  end

  defp made(%{op: "Identity"} = layer, %{"input" => value}, _, built),
    do: put(layer, [value], built)

  defp made(%{op: op} = layer, %{"data" => {:run, axon}}, _, built)
       when op in ["Shape", "Size"] do
    name = layer.inputs["data"]

    fun = fn shapes ->
      evaluate(layer, %{"data" => {:known, template(shapes[name])}}, %{})
    end

    put(
      layer,
      [
        {:shapes, %{name => axon}, fun,
         {layer.op, layer.attrs, 1, 0, [{"data", nil, {:of, name}}]}}
      ],
      built
    )
  end

  defp made(layer, ins, flat, built) do
    cond do
      Enum.all?(flat, &match?({:known, _}, &1)) ->
        put(layer, outputs(evaluate(layer, ins, %{}), layer), built)

      Enum.all?(flat, &(not match?({:run, _}, &1))) ->
        sources =
          for {:shapes, sources, _, _} <- flat, reduce: %{}, do: (all -> Map.merge(all, sources))

        count = length(layer.outputs)
        thin = Map.new(ins, fn {formal, value} -> {formal, thin(value)} end)
        reads = for {formal, value} <- ins, told <- told(formal, value), do: told

        each =
          for i <- 0..(count - 1) do
            fun = fn shapes -> evaluate(layer, thin, shapes) |> pick(count, i) end
            {:shapes, sources, fun, {layer.op, layer.attrs, count, i, reads}}
          end

        put(layer, each, built)

      true ->
        {values, params} = AxonHub.Explicit.build(layer, ins, built.ranks) || computed(layer, ins)

        state =
          if params == %{},
            do: built.state,
            else: Map.put(built.state, layer.name, Map.new(params, &here/1))

        put(layer, values, %{built | state: state})
    end
  end

  # A function that is kept with a layer must not drag the model along: every copy of it would.
  defp thin(values) when is_list(values), do: Enum.map(values, &thin/1)
  defp thin({:shapes, _, fun, _}), do: {:shapes, %{}, fun, nil}
  defp thin(known), do: known

  defp here({name, tensor}), do: {name, Nx.backend_transfer(tensor, Nx.default_backend())}

  defp pick(tensor, 1, 0), do: tensor
  defp pick(tuple, _, i), do: elem(tuple, i)

  defp outputs(tensor, %{outputs: [_]}), do: [{:known, tensor}]
  defp outputs(tuple, _), do: for(tensor <- Tuple.to_list(tuple), do: {:known, tensor})

  defp put(layer, values, built) do
    made =
      for {name, value} <- Enum.zip(layer.outputs, values),
          name != "",
          into: built.env,
          do: {name, value}

    %{built | env: made}
  end

  # Only the shape of it is ever asked for.
  defp template(shape),
    do: Nx.broadcast(Nx.tensor(0, type: {:u, 8}, backend: Nx.BinaryBackend), {1}) |> shaped(shape)

  defp shaped(tensor, shape),
    do: %{tensor | shape: shape, names: List.duplicate(nil, tuple_size(shape))}

  # The operator on numbers at hand, which never leave this machine's memory.
  defp evaluate(layer, ins, shapes) do
    Nx.with_default_backend(Nx.BinaryBackend, fn ->
      ins = Map.new(ins, fn {formal, value} -> {formal, at_hand(value, shapes)} end)
      guard(layer.op, ins)
      Operators.run(layer.op, ins, layer.attrs, length(layer.outputs))
    end)
  end

  defp at_hand(values, shapes) when is_list(values), do: Enum.map(values, &at_hand(&1, shapes))
  defp at_hand({:known, tensor}, _), do: tensor
  defp at_hand({:shapes, _, fun, _}, shapes), do: fun.(shapes)

  defp told(formal, values) when is_list(values) do
    for {value, i} <- Enum.with_index(values), do: {formal, i, how(value)}
  end

  defp told(formal, value), do: [{formal, nil, how(value)}]
  defp how({:shapes, _, _, how}), do: {:how, how}
  defp how(known), do: known

  # A few bytes in a file may ask for petabytes.
  defp guard("ConstantOfShape", %{"input" => shape}), do: limit(Operators.ints(shape))

  defp guard("Expand", %{"input" => x, "shape" => shape}),
    do: limit([Nx.size(x) | Operators.ints(shape)])

  defp guard("Tile", %{"input" => x, "repeats" => times}),
    do: limit([Nx.size(x) | Operators.ints(times)])

  defp guard("Range", %{"start" => start, "limit" => limit, "delta" => delta}) do
    [a, z, step] = for t <- [start, limit, delta], do: t |> Nx.reshape({}) |> Nx.to_number()
    limit([trunc(abs((z - a) / step)) + 1])
  end

  defp guard("Pad", %{"data" => x, "pads" => pads}),
    do: limit([Nx.size(x), Enum.max(Operators.ints(pads), fn -> 0 end) + 1])

  defp guard(_, _), do: :ok

  defp limit(sizes) do
    if Enum.product(sizes) > @most_elements,
      do:
        raise(
          ArgumentError,
          "it makes #{inspect(sizes, charlists: :as_lists)} elements of nothing"
        )
  end

  # An operator as an Axon.layer over Nx functions. What it reads is a row of arguments: what runs,
  # then parameters, then those values whose shapes are wanted.
  defp computed(layer, ins) do
    formals =
      for {formal, marks} <- Operators.schema(layer.op).formals,
          value = ins[formal],
          do: {formal, marks, value}

    slots = Enum.flat_map(formals, &slots/1)
    runs = for {_, _, {:run, axon}} <- slots, do: axon
    params = for {formal, i, {:param, tensor}} <- slots, do: {param_name(formal, i), tensor}

    sources =
      for {_, _, {:shapes, sources, _, _}} <- slots, reduce: %{} do
        all -> Map.merge(all, sources)
      end

    sources = Enum.sort_by(sources, &elem(&1, 0))
    parents = runs ++ Enum.map(params, &param/1) ++ Enum.map(sources, &elem(&1, 1))

    if length(parents) > @most_inputs,
      do: raise(ArgumentError, "it has more than #{@most_inputs} inputs")

    {names, count, op} = {Enum.map(sources, &elem(&1, 0)), length(layer.outputs), layer.op}
    plan = for {formal, i, slot} <- slots, do: {formal, i, bare(slot)}
    attrs = layer.attrs

    onnx =
      AxonHub.Onnx.new(
        op,
        for({formal, i, slot} <- slots, do: {formal, i, kept(slot)}),
        attrs,
        count,
        names
      )

    node =
      parents
      |> length()
      |> AxonHub.Arity.fun(fn args -> apply_plan(op, plan, names, args, attrs, count) end)
      |> Axon.layer(parents, name: layer.name, op_name: Operators.atom(op), onnx: onnx)

    {spread(node, layer), Map.new(params)}
  end

  # So that a model that is compiled elsewhere does not drag the graph along.
  defp bare({:run, _}), do: :run
  defp bare({:param, _}), do: :param
  defp bare({:shapes, _, fun, _}), do: {:shapes, fun}
  defp bare(known), do: known

  defp kept({:shapes, _, _, how}), do: {:how, how}
  defp kept(slot), do: bare(slot)

  defp slots({formal, _, values}) when is_list(values) do
    for {value, i} <- Enum.with_index(values), do: {formal, i, slot(value, false)}
  end

  defp slots({formal, marks, value}), do: [{formal, nil, slot(value, marks.known)}]

  defp slot({:known, {:empty, _}} = value, _), do: value

  defp slot({:known, tensor}, known) do
    if not known and elem(Nx.type(tensor), 0) in [:f, :bf] and Nx.size(tensor) > 1 do
      {:param, tensor}
    else
      {:known, tensor}
    end
  end

  defp slot(value, _), do: value

  defp param_name(formal, nil), do: formal
  defp param_name(formal, i), do: "#{formal}_#{i}"

  @doc "An Axon parameter of the shape and type of a tensor."
  def param({name, tensor}),
    do: Axon.param(name, Nx.shape(tensor), type: Nx.type(tensor), initializer: :zeros)

  defp apply_plan(op, plan, names, args, attrs, count) do
    {shaped, rest} = Enum.split(Enum.reverse(args), length(names))
    shapes = Map.new(Enum.zip(Enum.reverse(names), Enum.map(shaped, &Nx.shape/1)))
    {runs, params} = Enum.split(Enum.reverse(rest), Enum.count(plan, &match?({_, _, :run}, &1)))

    {filled, _} =
      Enum.map_reduce(plan, {runs, params}, fn
        {formal, i, :run}, {[x | runs], params} -> {{formal, i, x}, {runs, params}}
        {formal, i, :param}, {runs, [x | params]} -> {{formal, i, x}, {runs, params}}
        {formal, i, {:known, tensor}}, left -> {{formal, i, tensor}, left}
        {formal, i, {:shapes, fun}}, left -> {{formal, i, fun.(shapes)}, left}
      end)

    ins =
      for {formal, group} <- Enum.group_by(filled, &elem(&1, 0)), into: %{} do
        case group do
          [{_, nil, x}] -> {formal, x}
          many -> {formal, Enum.map(many, &elem(&1, 2))}
        end
      end

    Operators.run(op, ins, attrs, count)
  end

  defp spread(node, %{outputs: [_]}), do: [{:run, node}]

  defp spread(node, layer) do
    for {name, i} <- Enum.with_index(layer.outputs) do
      onnx = AxonHub.Onnx.new(:elem, [], %{"index" => i}, 1, [])

      {:run,
       Axon.layer(fn all, _ -> elem(all, i) end, [node],
         name: "#{layer.name}: #{name}",
         op_name: :elem,
         onnx: onnx
       )}
    end
  end

  defp output({:run, axon}, _), do: axon
  defp output({:known, tensor}, name), do: Axon.constant(tensor, name: name)
  defp output({:weight, weight}, name), do: Axon.constant(Folder.tensor!(weight), name: name)

  defp output({:shapes, _, _, _} = value, name) do
    layer = %{op: "Identity", name: name, attrs: %{}, outputs: [name]}
    {[{:run, axon}], _} = computed(layer, %{"input" => value})
    axon
  end

  defp output(_, _), do: nil

  defp whole([{_, model}]), do: model
  defp whole(outputs), do: Axon.container(Map.new(outputs))

  # What Axon itself would make of the model's parameters, against what the weights are.
  defp compare(model, state, graph) do
    free =
      for {name, dtype, shape} <- graph.inputs,
          not is_map_key(graph.tensors, name),
          do: {name, dtype, shape}

    {init, _} = Axon.build(model)

    template =
      for {name, dtype, shape} <- free,
          shape != nil,
          into: %{},
          do: {name, Nx.template(tried(shape), Folder.nx_type(dtype))}

    given = if map_size(template) == 1, do: template |> Map.values() |> hd(), else: template
    wanted = Nx.Defn.debug_expr_apply(init, [given, empty()])
    differences(flat(if(is_struct(wanted), do: wanted.data, else: wanted)), flat(state))
  rescue
    error ->
      sure =
        Enum.all?(graph.inputs, fn {_, _, shape} ->
          shape != nil and Enum.all?(Enum.drop(shape, 1), &is_integer/1)
        end)

      if sure, do: [whole_message(error)], else: []
  end

  defp whole_message(error) do
    error
    |> Exception.message()
    |> String.split("\n")
    |> Enum.map(&String.trim/1)
    |> Enum.reject(&(&1 == ""))
    |> Enum.take(3)
    |> Enum.join(" ")
  end

  defp tried([]), do: {}

  defp tried([first | rest]),
    do: List.to_tuple([whole_size(first, 1) | Enum.map(rest, &whole_size(&1, 64))])

  defp whole_size(size, _) when is_integer(size), do: size
  defp whole_size(_, other), do: other

  defp flat(layers) do
    for {layer, params} <- layers,
        {name, tensor} <- params,
        into: %{},
        do: {"#{layer} / #{name}", {Nx.shape(tensor), Nx.type(tensor)}}
  end

  defp differences(wanted, given) do
    missing =
      for {name, _} <- wanted, not is_map_key(given, name), do: "the weight '#{name}' is missing"

    surplus =
      for {name, _} <- given,
          not is_map_key(wanted, name),
          do: "the weight '#{name}' belongs to no layer"

    other =
      for {name, {shape, type}} <- wanted,
          {s, t} = Map.get(given, name, {shape, type}),
          {s, t} != {shape, type} do
        "the weight '#{name}' is #{inspect(t)}#{inspect(s)}, " <>
          "and the layer wants #{inspect(type)}#{inspect(shape, charlists: :as_lists)}"
      end

    missing ++ surplus ++ other
  end

  defp empty,
    do:
      if(Code.ensure_loaded?(Axon.ModelState),
        do:
          struct(Axon.ModelState, data: %{}, parameters: %{}, state: %{}, frozen_parameters: %{}),
        else: %{}
      )

  # An Axon.ModelState that knows which parameters are trained and which are statistics.
  defp state(model, data) do
    if Code.ensure_loaded?(Axon.ModelState) do
      kinds =
        Axon.reduce_nodes(model, [], fn node, all ->
          name = node.name.(node.op_name, %{})
          for(p <- node.parameters, do: {Map.get(p, :kind, :parameter), name, p.name}) ++ all
        end)

      group = fn kind ->
        for {^kind, layer, name} <- kinds,
            reduce: %{},
            do: (all -> Map.update(all, layer, [name], &[name | &1]))
      end

      struct(Axon.ModelState,
        data: data,
        parameters: group.(:parameter),
        state: group.(:state),
        frozen_parameters: %{}
      )
    else
      data
    end
  end
end

defmodule AxonHub.Arity do
  @moduledoc "Functions of any number of arguments, as Axon.layer wants them."

  for n <- 1..64 do
    args = Macro.generate_arguments(n, __MODULE__)

    @doc false
    def fun(unquote(n), callback) do
      fn unquote_splicing(args), _opts -> callback.(unquote(args)) end
    end
  end
end

defmodule AxonHub.Onnx do
  @moduledoc "What a computed layer was in the graph: it is kept with the layer, for the way back."
  defstruct [:op, :plan, :attrs, :count, :sources]

  @doc "The description of a computed layer: its operator, what it reads, and whose shapes."
  def new(op, plan, attrs, count, sources) do
    %__MODULE__{op: op, plan: plan, attrs: attrs, count: count, sources: sources}
  end

  defimpl Inspect do
    def inspect(onnx, _), do: "#AxonHub.Onnx<#{onnx.op}>"
  end
end

defmodule AxonHub.Explicit do
  @moduledoc """
  The operators that Axon has a layer for, where that layer means exactly the same: then
  `{[{:run, axon}], parameters}`, else nil.
  """

  @compile {:no_warn_undefined, [Nx, Axon]}

  @activations %{
    "Relu" => {:relu, %{}},
    "Sigmoid" => {:sigmoid, %{}},
    "Tanh" => {:tanh, %{}},
    "Softplus" => {:softplus, %{}},
    "Softsign" => {:softsign, %{}},
    "Mish" => {:mish, %{}},
    "Exp" => {:exp, %{}},
    "LeakyRelu" => {:leaky_relu, %{"alpha" => {:alpha, 0.01}}},
    "Elu" => {:elu, %{"alpha" => {:alpha, 1.0}}},
    "Celu" => {:celu, %{"alpha" => {:alpha, 1.0}}},
    "Selu" => {:selu, %{"alpha" => {:alpha, 1.6732632}, "gamma" => {:gamma, 1.050701}}},
    "HardSigmoid" => {:hard_sigmoid, %{"alpha" => {:alpha, 0.2}, "beta" => {:beta, 0.5}}},
    "Softmax" => {:softmax, %{"axis" => {:axis, -1}}},
    "LogSoftmax" => {:log_softmax, %{"axis" => {:axis, -1}}}
  }

  @doc """
  The Axon layer for a layer of the graph, or nil. `ins` maps formal names to values; `ranks` tells
  how many axes a value has, where that is known.
  """
  def build(%{op: op, name: name, attrs: attrs, outputs: [_ | more]} = layer, ins, ranks) do
    rank = ranks[layer.inputs["A"]] || 0

    cond do
      Enum.any?(more, &(&1 != "")) -> nil
      known = @activations[op] -> activation(known, ins, attrs, name)
      true -> one(op, ins, attrs, name, rank)
    end
  end

  defp activation({function, options}, ins, attrs, name) do
    [{:run, x}] = Map.values(ins)
    opts = for {key, {option, default}} <- options, do: {option, Map.get(attrs, key, default)}
    run(apply(Axon, function, [x, [{:name, name} | opts]]))
  end

  defp one("Gelu", %{"X" => {:run, x}}, attrs, name, _) do
    if Map.get(attrs, "approximate", "none") == "none", do: run(Axon.gelu(x, name: name))
  end

  defp one("Swish", %{"X" => {:run, x}}, attrs, name, _) do
    if Map.get(attrs, "alpha", 1.0) == 1, do: run(Axon.silu(x, name: name))
  end

  defp one("HardSwish", %{"X" => {:run, x}}, _, name, _) do
    run(Axon.hard_silu(x, alpha: 1 / 6, beta: 0.5, name: name))
  end

  defp one(
         "Clip",
         %{"input" => {:run, x}, "min" => {:known, low}, "max" => {:known, high}},
         _,
         name,
         _
       ) do
    if f32?(low) and number(low) == 0 and number(high) == 6, do: run(Axon.relu6(x, name: name))
  end

  defp one("Conv", %{"X" => {:run, x}, "W" => {:known, w}} = ins, attrs, name, _) do
    bias = ins["B"]
    kernel = Enum.drop(Tuple.to_list(Nx.shape(w)), 2)
    same_kernel!(attrs, kernel)

    if f32?(w) and (bias == nil or known_f32?(bias)) and explicit_pads?(attrs) and kernel != [] do
      geometry = AxonHub.Operators.window(kernel, kernel, attrs)

      node =
        Axon.conv(x, elem(Nx.shape(w), 0),
          kernel_size: List.to_tuple(kernel),
          strides: geometry.strides,
          padding: geometry.pads,
          kernel_dilation: geometry.dilations,
          feature_group_size: Map.get(attrs, "group", 1),
          use_bias: bias != nil,
          channels: :first,
          name: name
        )

      run(node, with_bias(%{"kernel" => w}, bias))
    end
  end

  defp one("BatchNormalization", %{"X" => {:run, x}} = ins, attrs, name, _) do
    params =
      for {formal, param} <- [
            {"scale", "gamma"},
            {"B", "beta"},
            {"input_mean", "mean"},
            {"input_var", "var"}
          ],
          do: {param, ins[formal]}

    if Enum.all?(params, fn {_, value} -> known_f32?(value) end) do
      epsilon = Map.get(attrs, "epsilon", 1.0e-5)
      momentum = Map.get(attrs, "momentum", 0.9)

      node =
        Axon.batch_norm(x, epsilon: epsilon, momentum: momentum, channel_index: 1, name: name)

      run(node, Map.new(params, fn {param, {:known, tensor}} -> {param, tensor} end))
    end
  end

  defp one("LayerNormalization", %{"X" => {:run, x}, "Scale" => scale, "B" => b}, attrs, name, _) do
    if Map.get(attrs, "axis", -1) == -1 and vector?(scale) and vector?(b) do
      {{:known, scale}, {:known, b}} = {scale, b}
      node = Axon.layer_norm(x, epsilon: Map.get(attrs, "epsilon", 1.0e-5), name: name)
      run(node, %{"gamma" => scale, "beta" => b})
    end
  end

  defp one("Gemm", %{"A" => {:run, a}, "B" => {:known, b}} = ins, attrs, name, _) do
    plain =
      attrs["transA"] in [nil, 0] and Map.get(attrs, "alpha", 1.0) == 1 and
        Map.get(attrs, "beta", 1.0) == 1

    if plain and f32?(b) and Nx.rank(b) == 2 do
      b = if attrs["transB"] == 1, do: Nx.transpose(b), else: b
      units = Nx.axis_size(b, 1)

      case ins["C"] do
        nil ->
          dense(a, b, nil, units, name)

        {:known, c} ->
          if f32?(c) and Nx.size(c) == units and Nx.axis_size(c, -1) == units,
            do: dense(a, b, Nx.reshape(c, {units}), units, name)

        _ ->
          nil
      end
    end
  end

  defp one("MatMul", %{"A" => {:run, a}, "B" => {:known, b}}, _, name, rank) do
    if rank >= 2 and f32?(b) and Nx.rank(b) == 2, do: dense(a, b, nil, Nx.axis_size(b, 1), name)
  end

  defp one("MaxPool", %{"X" => {:run, x}}, attrs, name, _) do
    if explicit_pads?(attrs) and attrs["ceil_mode"] in [nil, 0],
      do: run(Axon.max_pool(x, pool(attrs, name)))
  end

  defp one("AveragePool", %{"X" => {:run, x}}, attrs, name, _) do
    whole = attrs["count_include_pad"] == 1 or Enum.all?(attrs["pads"] || [], &(&1 == 0))

    if explicit_pads?(attrs) and attrs["ceil_mode"] in [nil, 0] and whole do
      run(Axon.avg_pool(x, pool(attrs, name)))
    end
  end

  defp one("GlobalAveragePool", %{"X" => {:run, x}}, _, name, _) do
    run(Axon.global_avg_pool(x, channels: :first, keep_axes: true, name: name))
  end

  defp one("GlobalMaxPool", %{"X" => {:run, x}}, _, name, _) do
    run(Axon.global_max_pool(x, channels: :first, keep_axes: true, name: name))
  end

  defp one("Flatten", %{"input" => {:run, x}}, attrs, name, _) do
    if Map.get(attrs, "axis", 1) == 1, do: run(Axon.flatten(x, name: name))
  end

  defp one("Reshape", %{"data" => {:run, x}, "shape" => {:known, shape}}, attrs, name, _) do
    case AxonHub.Operators.ints(shape) do
      [first | rest] when first in [0, -1] ->
        free = Enum.count(rest, &(&1 == -1))
        fits = Enum.all?(rest, &(&1 > 0 or &1 == -1)) and free <= if(first == 0, do: 1, else: 0)
        head = if first == 0, do: :batch, else: :auto
        target = [head | Enum.map(rest, &if(&1 == -1, do: :auto, else: &1))]

        if fits and attrs["allowzero"] != 1,
          do: run(Axon.reshape(x, List.to_tuple(target), name: name))

      _ ->
        nil
    end
  end

  defp one("Transpose", %{"data" => {:run, x}}, %{"perm" => perm}, name, _) do
    run(Axon.transpose(x, perm, name: name))
  end

  defp one("Concat", %{"inputs" => [_, _ | _] = values}, attrs, name, _) do
    if all_run?(values), do: run(Axon.concatenate(axons(values), axis: attrs["axis"], name: name))
  end

  defp one("Sum", %{"data_0" => [_, _ | _] = values}, _, name, _) do
    if all_run?(values), do: run(Axon.add(axons(values), name: name))
  end

  for {op, function} <- [{"Add", :add}, {"Sub", :subtract}, {"Mul", :multiply}] do
    defp one(unquote(op), %{"A" => {:run, a}, "B" => {:run, b}}, _, name, _) do
      run(Axon.unquote(function)(a, b, name: name))
    end
  end

  defp one("Dropout", %{"data" => {:run, x}} = ins, _, name, _) do
    rate = with {:known, ratio} <- Map.get(ins, "ratio", 0.5), do: number(ratio)

    if is_float(rate) and rate >= 0 and rate < 1 do
      run(Axon.dropout(x, rate: rate, name: name))
    else
      run(Axon.nx(x, & &1, name: name))
    end
  end

  defp one(_, _, _, _, _), do: nil

  defp run(axon, params \\ %{}), do: {[{:run, axon}], params}
  defp f32?(tensor), do: Nx.type(tensor) == {:f, 32}
  defp known_f32?({:known, tensor}), do: f32?(tensor)
  defp known_f32?(_), do: false
  defp vector?({:known, tensor}), do: f32?(tensor) and Nx.rank(tensor) == 1
  defp vector?(_), do: false
  defp number(tensor), do: tensor |> Nx.reshape({}) |> Nx.to_number()
  defp all_run?(values), do: Enum.all?(values, &match?({:run, _}, &1))
  defp axons(values), do: Enum.map(values, &elem(&1, 1))
  defp explicit_pads?(attrs), do: Map.get(attrs, "auto_pad", "NOTSET") in ["NOTSET", "VALID"]
  defp with_bias(params, nil), do: params
  defp with_bias(params, {:known, bias}), do: Map.put(params, "bias", bias)

  defp dense(x, kernel, bias, units, name) do
    node = Axon.dense(x, units, use_bias: bias != nil, name: name)
    run(node, with_bias(%{"kernel" => kernel}, bias && {:known, bias}))
  end

  defp pool(attrs, name) do
    kernel = attrs["kernel_shape"]
    geometry = AxonHub.Operators.window(kernel, kernel, attrs)

    [
      kernel_size: List.to_tuple(kernel),
      strides: geometry.strides,
      padding: geometry.pads,
      dilations: geometry.dilations,
      channels: :first,
      name: name
    ]
  end

  defp same_kernel!(attrs, kernel) do
    if Map.get(attrs, "kernel_shape", kernel) != kernel do
      raise ArgumentError,
            "kernel_shape is #{inspect(attrs["kernel_shape"], charlists: :as_lists)}, that of W #{inspect(kernel, charlists: :as_lists)}"
    end
  end
end

defmodule AxonHub.Export do
  @moduledoc """
  Writes an Axon model as data: `axon.json` with one node a layer, and a safetensors file with its
  parameters. What the layers' names mean is Axon's documentation; a function of one's own has no
  name, and is refused by that of its layer. Layers that `AxonHub.load/2` computed with Nx remember
  the ONNX operator that they are.

      {"format": 1, "weights": [{"file", "sha256", "size"}], "outputs": [{"name", "node"}],
       "nodes": [{"id", "op", "name", "inputs": [ids], "rank", "options",
                  "parameters": {name: key}}]}
  """

  alias AxonHub.{Error, JSON, Onnx, SafeTensors}

  @compile {:no_warn_undefined, [Nx, Nx.Defn, Axon, Axon.MixedPrecision]}

  @built_in [
              :input,
              :constant,
              :dense,
              :conv,
              :conv_transpose,
              :depthwise_conv,
              :embedding,
              :bias
            ] ++
              [
                :celu,
                :elu,
                :exp,
                :gelu,
                :hard_sigmoid,
                :hard_silu,
                :hard_tanh,
                :leaky_relu,
                :linear
              ] ++
              [
                :log_sigmoid,
                :log_softmax,
                :log_sumexp,
                :mish,
                :relu,
                :relu6,
                :selu,
                :sigmoid,
                :silu
              ] ++
              [:softmax, :softplus, :softsign, :tanh, :dropout, :spatial_dropout, :alpha_dropout] ++
              [
                :feature_alpha_dropout,
                :max_pool,
                :avg_pool,
                :lp_pool,
                :global_avg_pool,
                :global_max_pool
              ] ++
              [:global_lp_pool, :batch_norm, :instance_norm, :layer_norm, :group_norm, :rms_norm] ++
              [:flatten, :reshape, :transpose, :pad, :concatenate, :add, :subtract, :multiply]

  @drops [:dropout, :spatial_dropout, :alpha_dropout, :feature_alpha_dropout]

  @types %{
    {:f, 32} => "F32",
    {:f, 64} => "F64",
    {:f, 16} => "F16",
    {:bf, 16} => "BF16",
    {:s, 8} => "I8",
    {:s, 16} => "I16",
    {:s, 32} => "I32",
    {:s, 64} => "I64",
    {:u, 8} => "U8",
    {:u, 16} => "U16",
    {:u, 32} => "U32",
    {:u, 64} => "U64"
  }

  @doc "See `AxonHub.export/3`."
  def write!(model, state, path) do
    state = if is_struct(state), do: state.data, else: state
    {shapes, faults} = shapes(model)

    start = %{
      nodes: [],
      ids: %{},
      keys: %{},
      problems: [],
      ranks: Map.new(shapes, fn {id, shape} -> {id, shape && tuple_size(shape)} end),
      channels: channels(model, shapes),
      state: state,
      model: model,
      used: []
    }

    {outputs, done} = outputs(model, start)
    problems = Enum.reverse(done.problems) ++ faults ++ surplus(state, done.used)
    if problems != [], do: raise(Error.new("cannot write the model as data:", problems))

    file = Path.rootname(path) <> ".safetensors"

    for taken <- [path, file],
        File.exists?(taken),
        do: raise(Error.new("cannot write the model:", ["#{taken} is there already"]))

    parts =
      for {key, t} <- done.keys,
          do: {key, @types[Nx.type(t)], Tuple.to_list(Nx.shape(t)), Nx.to_binary(t)}

    {hash, size} = SafeTensors.write!(file, parts)

    File.write!(
      path,
      JSON.encode(
        {:object,
         [
           {"format", 1},
           {"weights", [%{"file" => Path.basename(file), "sha256" => hash, "size" => size}]},
           {"outputs", outputs},
           {"nodes", Enum.reverse(done.nodes)}
         ]}
      ) <> "\n",
      [:exclusive]
    )

    path
  end

  defp surplus(state, used) do
    for {layer, params} <- state,
        {name, tensor} <- params,
        not drop_key?(name, tensor),
        {layer, name} not in used do
      "the state holds '#{name}' of layer '#{layer}', which the model has not"
    end
  end

  defp drop_key?(name, tensor),
    do: name == "key" and is_struct(tensor, Nx.Tensor) and Nx.type(tensor) == {:u, 32}

  defp outputs(model, done) do
    node = model.nodes[model.output]

    if node.op_name == :container do
      Enum.map_reduce(children(node), done, fn {name, id}, done ->
        {number, done} = visit(id, done)
        {%{"name" => name, "node" => number}, done}
      end)
    else
      {number, done} = visit(model.output, done)
      {[%{"name" => "output", "node" => number}], done}
    end
  end

  # Where Axon packs its inputs into a container: their names or numbers, and their ids.
  defp children(%{op: :container, parent: [packed]}), do: unpacked(packed)
  defp children(%{op: fun, parent: ids}), do: fun |> apply(ids ++ [[]]) |> unpacked()

  defp unpacked(map) when is_map(map),
    do: for({key, id} <- Enum.sort(map), do: {to_string(key), id})

  defp unpacked(tuple),
    do: for({id, i} <- Enum.with_index(Tuple.to_list(tuple)), do: {"output_#{i}", id})

  defp name(node), do: node.name.(node.op_name, %{})
  defp label(node), do: "layer '#{name(node)}' (#{node.op_name})"

  defp visit(id, done) do
    case done.ids do
      %{^id => number} -> {number, done}
      _ -> describe(done.model.nodes[id], id, done)
    end
  end

  defp visit_all(ids, done), do: Enum.map_reduce(ids, done, &visit/2)

  defp describe(%{op_name: :container} = node, id, done),
    do: refuse(node, id, "it packs values, which only an output may", done)

  defp describe(node, id, done) do
    case node.opts[:onnx] do
      %Onnx{op: :input, attrs: %{"dtype" => dtype}} ->
        typed(node, id, dtype, done)

      %Onnx{} = onnx ->
        computed(node, id, onnx, done)

      nil when node.op in @drops ->
        alias_of(hd(node.parent), id, done)

      nil when node.op in @built_in ->
        built_in(node, id, done)

      nil when is_function(node.op) ->
        refuse(node, id, "it is a function of one's own, and data cannot say what it does", done)

      nil ->
        refuse(node, id, "#{inspect(node.op)} is none of the layers that can be written", done)
    end
  end

  # What stands above it is looked at all the same, so that one error names every such layer.
  defp refuse(node, id, why, done) do
    done = %{done | problems: ["#{label(node)}: #{why}" | done.problems]}
    {_, done} = node |> above() |> Enum.flat_map(&inputs(&1, done)) |> visit_all(done)
    {0, %{done | ids: Map.put(done.ids, id, 0)}}
  end

  defp alias_of(parent, id, done) do
    {number, done} = visit(parent, done)
    {number, %{done | ids: Map.put(done.ids, id, number)}}
  end

  defp typed(node, id, dtype, done) do
    {number, done} = alias_of(hd(node.parent), id, done)

    nodes =
      for n <- done.nodes,
          do: if(n["id"] == number, do: put_in(n, ["options", "dtype"], dtype), else: n)

    {number, %{done | nodes: nodes}}
  end

  defp built_in(node, id, done) do
    {numbers, done} = node.parent |> Enum.flat_map(&inputs(&1, done)) |> visit_all(done)
    {params, done} = parameters(node, done)

    opts =
      Keyword.drop(node.opts, [:optional, :meta | List.wrap(if(node.op == :constant, do: :value))])

    {params, done} = constant(node, params, done)

    faults =
      for {key, value} <- opts,
          is_function(value),
          do: "#{label(node)}: its option #{key} is a function"

    options =
      for {key, value} <- opts,
          not is_function(value),
          into: %{},
          do: {to_string(key), plain(value)}

    options =
      if node.op == :depthwise_conv,
        do: Map.put(options, "groups", done.channels[id]),
        else: options

    add(node, id, to_string(node.op), numbers, options, params, %{
      done
      | problems: faults ++ done.problems
    })
  end

  defp inputs(id, done) do
    case done.model.nodes[id] do
      %{op_name: :container} = node -> for {_, child} <- children(node), do: child
      _ -> [id]
    end
  end

  defp add(node, id, op, numbers, options, params, done) do
    told = %{"name" => name(node), "op" => op, "inputs" => numbers, "rank" => done.ranks[id]}
    {number, done} = put(Map.merge(told, %{"options" => options, "parameters" => params}), done)
    {number, %{done | ids: Map.put(done.ids, id, number)}}
  end

  defp put(told, done) do
    number = length(done.nodes)
    {number, %{done | nodes: [Map.put(told, "id", number) | done.nodes]}}
  end

  defp parameters(node, done) do
    Enum.reduce(node.parameters, {%{}, done}, fn %{name: param}, {params, done} ->
      case get_in(done.state, [name(node), param]) do
        tensor when is_struct(tensor, Nx.Tensor) ->
          {key, done} = keep(name(node) <> "/" <> param, tensor, done)
          {Map.put(params, param, key), %{done | used: [{name(node), param} | done.used]}}

        _ ->
          {params,
           %{
             done
             | problems: ["#{label(node)}: the state holds no '#{param}' of it" | done.problems]
           }}
      end
    end)
  end

  defp constant(%{op: :constant} = node, params, done) do
    {key, done} = keep(name(node) <> "/value", node.opts[:value], done)
    {Map.put(params, "value", key), done}
  end

  defp constant(_, params, done), do: {params, done}

  defp keep(key, tensor, done) do
    key =
      Enum.find(
        Stream.concat([key], Stream.map(2..1_000_000, &"#{key}~#{&1}")),
        &(not is_map_key(done.keys, &1))
      )

    fault =
      if @types[Nx.type(tensor)],
        do: [],
        else: ["'#{key}' is #{inspect(Nx.type(tensor))}, which safetensors has not"]

    {key, %{done | keys: Map.put(done.keys, key, tensor), problems: fault ++ done.problems}}
  end

  # A layer that AxonHub computes with Nx: an ONNX operator, and where each of its inputs comes from.
  defp computed(node, id, onnx, done) do
    {parents, done} = visit_all(node.parent, done)
    {params, done} = parameters(node, done)
    {runs, sources} = Enum.split(parents, Enum.count(onnx.plan, &match?({_, _, :run}, &1)))
    shapes = Map.new(Enum.zip(onnx.sources, sources))

    {reads, {_, done}} =
      Enum.map_reduce(onnx.plan, {runs, done}, fn
        {formal, i, :run}, {[run | runs], done} ->
          {[formal, i, "node", run], {runs, done}}

        {formal, i, :param}, {runs, done} ->
          {[formal, i, "parameter", if(i, do: "#{formal}_#{i}", else: formal)], {runs, done}}

        {formal, i, known}, {runs, done} ->
          read(formal, i, known, shapes, name(node), {runs, done})
      end)

    reads = if onnx.op == :elem, do: [["input", nil, "node", hd(parents)]], else: reads
    {options, done} = options(onnx.op, onnx.attrs, onnx.count, reads, name(node), done)
    add(node, id, "onnx", [], options, params, done)
  end

  defp read(formal, i, {:known, {:empty, type}}, _, _, {runs, done}),
    do: {[formal, i, "empty", @types[type]], {runs, done}}

  defp read(formal, i, {:known, tensor}, _, name, {runs, done}) do
    {key, done} = keep(name <> "/" <> formal, tensor, done)
    {[formal, i, "known", key], {runs, done}}
  end

  defp read(formal, i, {:of, source}, shapes, _, {runs, done}),
    do: {[formal, i, "node", shapes[source]], {runs, done}}

  defp read(formal, i, {:how, {op, attrs, count, index, plan}}, shapes, name, {runs, done}) do
    {reads, {_, done}} =
      Enum.map_reduce(plan, {[], done}, fn {f, j, r}, acc -> read(f, j, r, shapes, name, acc) end)

    {options, done} = options(op, attrs, count, reads, name, done)

    told = %{
      "name" => "#{name}/#{formal}/#{length(done.nodes)}",
      "op" => "onnx",
      "inputs" => [],
      "rank" => nil
    }

    {number, done} = put(Map.merge(told, %{"options" => options, "parameters" => %{}}), done)
    {[formal, i, "node", if(count == 1, do: number, else: [number, index])], {runs, done}}
  end

  defp options(op, attrs, count, reads, name, done) do
    {attrs, done} =
      Enum.map_reduce(attrs, done, fn
        {key, tensor}, done when is_struct(tensor, Nx.Tensor) ->
          {stored, done} = keep(name <> "/" <> key, tensor, done)
          {{key, %{"tensor" => stored}}, done}

        {key, value}, done ->
          {{key, plain(value)}, done}
      end)

    {%{"op" => to_string(op), "attrs" => Map.new(attrs), "outputs" => count, "reads" => reads},
     done}
  end

  defp plain(:infinity), do: %{"float" => "inf"}
  defp plain(:neg_infinity), do: %{"float" => "-inf"}
  defp plain(:nan), do: %{"float" => "nan"}

  defp plain(value)
       when is_boolean(value) or is_nil(value) or is_number(value) or is_binary(value),
       do: value

  defp plain(value) when is_atom(value), do: to_string(value)
  defp plain(value) when is_tuple(value), do: value |> Tuple.to_list() |> plain()
  defp plain(value) when is_list(value), do: Enum.map(value, &plain/1)
  defp plain(value) when is_struct(value, Nx.Tensor), do: value |> Nx.to_flat_list() |> hd()

  # How many channels go into each depthwise convolution, which its options do not tell.
  defp channels(model, shapes) do
    for {id, %{op: :depthwise_conv} = node} <- model.nodes,
        shape = shapes[hd(node.parent)],
        into: %{} do
      {id, elem(shape, if(node.opts[:channels] == :first, do: 1, else: tuple_size(shape) - 1))}
    end
  end

  # The shape of each layer's output, from one look at the whole model. Sizes that are not known
  # stand there as others; how many axes there are, and how many channels, is right.
  defp shapes(model) do
    reached = reach([model.output], model, MapSet.new())

    nodes =
      for {id, node} <- model.nodes, node.op_name != :container, id in reached, do: {id, node}

    whole = Axon.container(Map.new(nodes, fn {id, _} -> {inspect(id), %{model | output: id}} end))
    inputs = for {id, %{op: :input} = node} <- nodes, do: {id, node}
    found = Axon.get_output_shape(whole, templates(model, inputs))
    {Map.new(nodes, fn {id, _} -> {id, shape(found[inspect(id)])} end), []}
  rescue
    error in Error ->
      {%{}, error.problems}

    error ->
      why = error |> Exception.message() |> String.split("\n") |> hd()
      {%{}, ["its shapes do not fit: " <> why]}
  end

  defp reach([], _, seen), do: seen

  defp reach([id | rest], model, seen) do
    if id in seen do
      reach(rest, model, seen)
    else
      reach(above(model.nodes[id]) ++ rest, model, MapSet.put(seen, id))
    end
  end

  defp above(%{op_name: :container} = node), do: Enum.map(children(node), &elem(&1, 1))
  defp above(node), do: node.parent

  defp shape(tensor) when is_struct(tensor), do: Nx.shape(tensor)
  defp shape(shape), do: if(Enum.all?(Tuple.to_list(shape), &is_integer/1), do: shape)

  defp templates(model, inputs) do
    for {id, node} <- inputs, into: %{} do
      shape =
        node.opts[:shape] ||
          raise(
            Error.new("cannot write the model as data:", ["input '#{name(node)}' has no shape"])
          )

      [first | rest] = Tuple.to_list(shape)

      {name(node),
       Nx.template(List.to_tuple([first || 1 | Enum.map(rest, &(&1 || 64))]), type(model, id))}
    end
  end

  # Indices are integers; anything else that is not said otherwise is a float.
  defp type(model, input) do
    Enum.find_value(model.nodes, {:f, 32}, fn {_, node} ->
      case {input in List.wrap(node.parent), node.op, node.opts[:onnx]} do
        {true, :embedding, _} -> {:s, 64}
        {true, _, %Onnx{op: :input, attrs: %{"dtype" => dtype}}} -> AxonHub.Folder.nx_type(dtype)
        _ -> nil
      end
    end)
  end
end

defmodule AxonHub.Hub do
  @moduledoc """
  Looks models up on a hub and fetches them, with OTP's own HTTP client.

  A body is taken piece by piece, counted and hashed on its way to the disk, and given up as soon as
  it is longer than the hub said. Certificates are checked against the system's. A token goes to the
  endpoint that it was given for, and is left behind where that redirects. In a Mix project,
  `:inets` and `:ssl` belong into `extra_applications`.
  """

  alias AxonHub.{Error, JSON}

  @public "https://huggingface.co"
  @longest_answer 100_000_000
  @patience 60_000
  @redirects 5

  @doc "See `AxonHub.list_models/2`."
  def list(tags, opts) do
    opts =
      Keyword.validate!(opts, [:token, :search, :author, :sort, endpoint: @public, limit: 30])

    asked = for key <- [:search, :author, :sort], value = opts[key], do: {key, value}

    query =
      URI.encode_query(
        for(tag <- tags, do: {"filter", tag}) ++ asked ++ [limit: min(opts[:limit], 1000)]
      )

    opts[:endpoint]
    |> trimmed()
    |> Kernel.<>("/api/models?" <> query)
    |> pages(opts, opts[:limit])
    |> Enum.take(opts[:limit])
  end

  defp pages(url, opts, wanted) do
    {models, headers} = json!(url, opts)

    unless is_list(models) and Enum.all?(models, &is_map/1),
      do: fail(url, "it answers with no list of models")

    following = if length(models) < wanted and models != [], do: next(headers, url)
    models ++ if(following, do: pages(following, opts, wanted - length(models)), else: [])
  end

  defp next(headers, url) do
    with link when link != nil <- header(headers, "link"),
         [_, target] <- Regex.run(~r/<([^>]*)>;\s*rel="?next"?/, link) do
      url |> URI.merge(target) |> to_string()
    else
      _ -> nil
    end
  end

  @doc "See `AxonHub.download/2`."
  def download(id, opts) do
    opts =
      Keyword.validate!(opts, [:token, :files, :cache_dir, endpoint: @public, revision: "main"])

    unless id =~ ~r/\A[\w.-]+(\/[\w.-]+)?\z/ and not (id =~ ".."),
      do: fail(id, "it is no name of a model")

    base = trimmed(opts[:endpoint])
    url = "#{base}/api/models/#{id}/revision/#{component(opts[:revision])}?blobs=true"
    {info, _} = json!(url, opts)
    commit = commit!(info, url)
    told = siblings(info)
    home = Path.join([cache(opts), place(base), String.replace(id, "/", "--"), commit])
    source = "#{base}/#{id}/resolve/#{commit}/"
    files = opts[:files] || ["graph.json"]
    Enum.each(files, &fetch!(&1, told, home, source, opts))
    unless opts[:files], do: Enum.each(weights!(home), &fetch!(&1, told, home, source, opts))
    home
  end

  defp commit!(%{"sha" => commit}, url) when is_binary(commit) do
    if commit =~ ~r/\A[0-9a-f]{40}\z/, do: commit, else: fail(url, "it tells no commit")
  end

  defp commit!(_, url), do: fail(url, "it tells no commit")

  defp siblings(%{"siblings" => list}) when is_list(list) do
    for %{"rfilename" => name} = told when is_binary(name) <- list, into: %{}, do: {name, told}
  end

  defp siblings(_), do: %{}

  defp weights!(home) do
    case JSON.decode(File.read!(Path.join(home, "graph.json"))) do
      {:ok, %{"weights" => list}} when is_list(list) ->
        for %{"file" => name} when is_binary(name) <- list, do: name

      _ ->
        fail(home, "its graph.json is none of hubtool")
    end
  end

  defp cache(opts), do: opts[:cache_dir] || :filename.basedir(:user_cache, "axon_hub")

  # Two hubs never mix, whatever their addresses look like.
  defp place(base) do
    readable = String.replace(base, ~r/[^a-zA-Z0-9]+/, "-")

    readable <>
      "-" <> (:crypto.hash(:sha256, base) |> Base.encode16(case: :lower) |> binary_part(0, 12))
  end

  defp fetch!(name, told, home, source, opts) do
    parts = String.split(name, "/")

    plain =
      Enum.all?(parts, &(&1 not in ["", ".", ".."])) and
        not String.contains?(name, ["\\", ":", "\0"])

    unless plain, do: fail(source, "'#{name}' is no name for a file")
    unless is_map_key(told, name), do: fail(source, "it holds no file '#{name}'")
    promise = promise!(told[name], source <> name)
    path = Path.join([home | parts])

    unless kept?(path, promise),
      do: stream!(source <> Enum.map_join(parts, "/", &component/1), path, promise, opts)
  end

  # What the hub states of a file: its size, and a hash to compare with.
  defp promise!(%{"lfs" => %{"sha256" => hash, "size" => size}}, _)
       when is_binary(hash) and is_integer(size) do
    {size, :sha256, "", hash}
  end

  defp promise!(%{"blobId" => oid, "size" => size}, _) when is_binary(oid) and is_integer(size) do
    {size, :sha, "blob #{size}\0", oid}
  end

  defp promise!(_, url), do: fail(url, "the hub states no hash of it")

  defp kept?(path, {size, kind, prefix, hash}) do
    with {:ok, %{type: :regular, size: ^size}} <- File.lstat(path) do
      digest =
        path
        |> File.stream!([], 1_048_576)
        |> Enum.reduce(begun(kind, prefix), &:crypto.hash_update(&2, &1))

      hex(digest) == hash
    else
      _ -> false
    end
  end

  defp begun(kind, prefix), do: :crypto.hash_update(:crypto.hash_init(kind), prefix)
  defp hex(digest), do: digest |> :crypto.hash_final() |> Base.encode16(case: :lower)

  defp stream!(url, path, {size, kind, prefix, hash}, opts) do
    File.mkdir_p!(Path.dirname(path))
    part = "#{path}.#{Base.encode16(:crypto.strong_rand_bytes(6))}.part"
    {:ok, file} = :file.open(part, [:write, :raw, :binary, :exclusive])

    try do
      take = fn bytes, {count, digest} ->
        if count + byte_size(bytes) > size,
          do: fail(url, "it is longer than the #{size} bytes that the hub states")

        :ok = :file.write(file, bytes)
        {count + byte_size(bytes), :crypto.hash_update(digest, bytes)}
      end

      {{count, digest}, _} = get!(url, opts, {0, begun(kind, prefix)}, take)
      if count != size, do: fail(url, "it has #{count} bytes, the hub states #{size}")

      if hex(digest) != hash,
        do: fail(url, "its hash is not the one that the hub states: it is damaged")

      :ok = :file.sync(file)
      File.rename!(part, path)
    after
      :file.close(file)
      File.rm(part)
    end
  end

  defp json!(url, opts) do
    take = fn bytes, {count, parts} ->
      if count + byte_size(bytes) > @longest_answer, do: fail(url, "its answer does not end")
      {count + byte_size(bytes), [parts, bytes]}
    end

    {{_, parts}, headers} = get!(url, opts, {0, []}, take)

    case JSON.decode(IO.iodata_to_binary(parts)) do
      {:ok, answer} -> {answer, headers}
      {:error, reason} -> fail(url, "its answer is #{reason}")
    end
  end

  # The body of an answer, folded piece by piece with `take`; and the answer's headers.
  defp get!(url, opts, start, take) do
    {:ok, _} = Application.ensure_all_started(:inets)
    {:ok, _} = Application.ensure_all_started(:ssl)
    token = if opts[:token] && origin(url) == origin(trimmed(opts[:endpoint])), do: opts[:token]
    follow!(url, token, start, take, @redirects)
  end

  defp follow!(url, _, _, _, 0), do: fail(url, "it redirects again and again")

  defp follow!(url, token, start, take, left) do
    case request(url, token, start, take) do
      {:ok, result, headers} ->
        {result, headers}

      {:answer, status, headers} when status in [301, 302, 303, 307, 308] ->
        target = to_string(URI.merge(url, header(headers, "location") || ""))
        secure = not String.starts_with?(url, "https:") or String.starts_with?(target, "https:")
        unless secure and target =~ ~r/\Ahttps?:/, do: fail(url, "it redirects to '#{target}'")
        follow!(target, nil, start, take, left - 1)

      {:answer, status, headers} ->
        fail(url, header(headers, "x-error-message") || "it answers with status #{status}")

      {:error, reason} ->
        fail(url, "it cannot be reached (#{inspect(reason)})")
    end
  end

  defp request(url, token, start, take) do
    headers = [
      {to_charlist("user-agent"), to_charlist("axon_hub")}
      | if(token, do: [{to_charlist("authorization"), to_charlist("Bearer " <> token)}], else: [])
    ]

    http =
      [autoredirect: false, connect_timeout: 30_000] ++
        if(url =~ ~r/\Ahttps:/, do: [ssl: tls()], else: [])

    how = [sync: false, stream: {:self, :once}, body_format: :binary]

    case :httpc.request(:get, {to_charlist(url), headers}, http, how) do
      {:ok, reference} -> receiving(reference, start, take)
      {:error, reason} -> {:error, reason}
    end
  end

  defp tls do
    [
      verify: :verify_peer,
      cacerts: :public_key.cacerts_get(),
      depth: 5,
      customize_hostname_check: [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
    ]
  end

  defp receiving(reference, result, take, handler \\ nil, headers \\ []) do
    receive do
      {:http, {^reference, :stream_start, headers, handler}} ->
        :httpc.stream_next(handler)
        receiving(reference, result, take, handler, headers)

      {:http, {^reference, :stream, bytes}} ->
        result = take.(bytes, result)
        :httpc.stream_next(handler)
        receiving(reference, result, take, handler, headers)

      {:http, {^reference, :stream_end, _}} ->
        {:ok, result, headers}

      {:http, {^reference, {:error, reason}}} ->
        {:error, reason}

      {:http, {^reference, {{_, 200, _}, headers, body}}} ->
        {:ok, take.(body, result), headers}

      {:http, {^reference, {{_, status, _}, headers, _}}} ->
        {:answer, status, headers}
    after
      @patience -> {:error, :timeout}
    end
  after
    :httpc.cancel_request(reference)
  end

  defp header(headers, name) do
    with {_, value} <- List.keyfind(headers, to_charlist(name), 0), do: to_string(value)
  end

  defp origin(url), do: url |> URI.parse() |> Map.take([:scheme, :host, :port])
  defp trimmed(endpoint), do: String.trim_trailing(endpoint, "/")
  defp component(text), do: URI.encode(text, &URI.char_unreserved?/1)
  defp fail(what, why), do: raise(Error.new("cannot fetch from the hub:", ["#{what}: #{why}"]))
end
