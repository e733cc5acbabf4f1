"""A hub of our own, which huggingface_hub takes for its own.

    errors      a refusal: status, message, code; what every room below raises
    store       bytes, named by their sha256
    meta        repositories, refs, commits, files, in one SQLite database
    journal     every change of it once more, for the day that the database is gone
    commits     a commit's body read as a stream, and applied in one transaction
    index       tags and search
    xet         large files that come as chunks, some of which were sent before
    check, collect, backup, reindex   looking after a hub: `hubtool hub`
    app, run    HTTP over these rooms, and the server that speaks it

HTTP knows no SQL and no file layout; the rooms above it know no HTTP but the status of a refusal.
Who wants one of them names it: `from hubtool.hub.server import store`.
"""
