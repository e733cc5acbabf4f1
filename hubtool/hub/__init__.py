"""Publishing and finding models: cards, the client, and a hub of our own to publish to.

    address     which hub is meant, and which token may go there
    card        what a model's README says: built from the conversion's facts, and linted
    push, pull, search      one path for every hub, over `session`
    embedded    our own server on 127.0.0.1 for the length of a call, over a folder
    server/     a hub that huggingface_hub takes for its own

Who wants one of them names it: `from hubtool.hub.pull import pull`.
"""
