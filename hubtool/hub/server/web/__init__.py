"""The hub for people: plain pages, made on the server, that a browser shows without any script.

    pages       one handler a page: what is looked up, and what the template is given
    render      templates, the headers that every page bears, and refusals as pages
    card        a stranger's Markdown as HTML that can do nothing
    layers      the layer table of a graph.json that may be hostile
    templates/, style.css     what the pages look like

Whatever a person sees here a program finds in the API too; nothing is changed through a page.
"""
