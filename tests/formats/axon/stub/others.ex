# Stand-ins for Kino and safetensors. Of a weights file the header alone is read.

defmodule Kino.Input do
  def image(label, format: :rgb) when is_binary(label), do: :image

  def read(:image) do
    case System.get_env("STUB_PICTURE") do
      nil -> nil
      path -> %{file_ref: path, height: 2, width: 3, format: :rgb}
    end
  end

  def file_path(path), do: path
end

defmodule Kino.DataTable do
  def new([%{} | _] = rows, keys: keys) when is_list(keys), do: rows
end

defmodule Safetensors do
  @types %{
    "F64" => {:f, 64},
    "F32" => {:f, 32},
    "F16" => {:f, 16},
    "BF16" => {:bf, 16},
    "I64" => {:s, 64},
    "I32" => {:s, 32},
    "I16" => {:s, 16},
    "I8" => {:s, 8},
    "U64" => {:u, 64},
    "U32" => {:u, 32},
    "U16" => {:u, 16},
    "U8" => {:u, 8}
  }

  def read!(path) do
    <<size::unsigned-64-integer-little, header::binary-size(size), _::binary>> = File.read!(path)
    {entries, _} = value(space(header))

    for {name, entry} <- entries, name != "__metadata__", into: %{} do
      type = Map.fetch!(@types, entry["dtype"])
      {name, %Nx.Tensor{shape: List.to_tuple(entry["shape"]), type: type}}
    end
  end

  # JSON, as far as such headers use it.
  defp space(<<c, rest::binary>>) when c in ' \n\r\t', do: space(rest)
  defp space(text), do: text

  defp value("{" <> rest), do: object(space(rest), %{})
  defp value("[" <> rest), do: list(space(rest), [])
  defp value("\"" <> rest), do: string(rest, "")

  defp value(text) do
    {number, rest} = Integer.parse(text)
    {number, rest}
  end

  defp object("}" <> rest, found), do: {found, rest}
  defp object("," <> rest, found), do: object(space(rest), found)

  defp object("\"" <> rest, found) do
    {key, rest} = string(rest, "")
    ":" <> rest = space(rest)
    {item, rest} = value(space(rest))
    object(space(rest), Map.put(found, key, item))
  end

  defp list("]" <> rest, found), do: {Enum.reverse(found), rest}
  defp list("," <> rest, found), do: list(space(rest), found)

  defp list(text, found) do
    {item, rest} = value(text)
    list(space(rest), [item | found])
  end

  defp string("\"" <> rest, found), do: {found, rest}

  defp string("\\u" <> <<hex::binary-4, rest::binary>>, found),
    do: string(rest, found <> unit(hex))

  defp string("\\n" <> rest, found), do: string(rest, found <> "\n")
  defp string("\\r" <> rest, found), do: string(rest, found <> "\r")
  defp string("\\t" <> rest, found), do: string(rest, found <> "\t")
  defp string("\\b" <> rest, found), do: string(rest, found <> "\b")
  defp string("\\f" <> rest, found), do: string(rest, found <> "\f")
  defp string(<<"\\", c, rest::binary>>, found), do: string(rest, <<found::binary, c>>)
  defp string(<<c::utf8, rest::binary>>, found), do: string(rest, <<found::binary, c::utf8>>)

  defp unit(hex), do: <<String.to_integer(hex, 16)::utf8>>
end
