defmodule Weights do
  @moduledoc "Finds a weights file in a folder, in the cache or on the hub, and checks it."

  def path!({name, sha256}, folder, url) do
    beside = Path.join(folder, name)

    cond do
      File.regular?(beside) -> check!(beside, sha256)
      url == nil -> raise "there is no #{name} in #{folder}; put it there, or change `folder`"
      true -> cached!(url <> name, sha256)
    end
  end

  defp cached!(url, sha256) do
    path = Path.join(:filename.basedir(:user_cache, "hubtool-axon"), sha256)
    if File.regular?(path), do: check!(path, sha256), else: fetch!(url, path, sha256)
  end

  def check!(path, sha256) do
    case sha256_of(path) do
      ^sha256 -> path
      other -> raise "#{path} has SHA-256 #{other}, and #{sha256} is wanted: it is another file"
    end
  end

  defp sha256_of(path) do
    File.open!(path, [:read, :raw, :binary], fn file ->
      file |> digest(:crypto.hash_init(:sha256)) |> Base.encode16(case: :lower)
    end)
  end

  defp digest(file, hash) do
    case :file.read(file, 1_048_576) do
      {:ok, bytes} -> digest(file, :crypto.hash_update(hash, bytes))
      :eof -> :crypto.hash_final(hash)
    end
  end

  defp fetch!(url, target, sha256) do
    {:ok, _} = Application.ensure_all_started(:inets)
    {:ok, _} = Application.ensure_all_started(:ssl)
    part = "#{target}.#{System.unique_integer([:positive])}.part"
    File.mkdir_p!(Path.dirname(target))
    request = {String.to_charlist(url), []}

    try do
      case :httpc.request(:get, request, options(url), stream: String.to_charlist(part)) do
        {:ok, :saved_to_file} -> check!(part, sha256)
        other -> raise "cannot fetch #{url}: #{inspect(other)}"
      end

      File.rename!(part, target)
    after
      File.rm(part)
    end

    target
  end

  defp options("https:" <> _) do
    names = [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)]
    certs = :public_key.cacerts_get()
    [ssl: [verify: :verify_peer, cacerts: certs, customize_hostname_check: names]]
  end

  defp options(_url), do: []
end
