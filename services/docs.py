# ruff: noqa: E501
"""The page at /docs: reads /openapi.json and lets a person try it. Needs no network beyond the service."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Perennial</title>
<link rel="icon" href="data:,">
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2b22; }
  h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
  code, pre, textarea { font: 14px/1.4 ui-monospace, monospace; }
  textarea { width: 100%; box-sizing: border-box; padding: .6rem; border: 1px solid #8aa295; border-radius: 6px; }
  pre { background: #f1f5f2; padding: .8rem; border-radius: 6px; overflow: auto; margin: .6rem 0; }
  button { font: inherit; padding: .35rem 1rem; border: 0; border-radius: 6px; background: #1f6b43; color: #fff; cursor: pointer; }
  button:focus-visible, textarea:focus-visible, a:focus-visible { outline: 3px solid #e0a526; outline-offset: 2px; }
  table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #d5dfd9; vertical-align: top; }
</style>
</head>
<body>
<main>
<h1 id="title">Perennial</h1>
<p>Machine-readable: <a href="/openapi.json">/openapi.json</a>. State of a worker: <a href="/live">/live</a>.
Metrics: <a href="/metrics">/metrics</a>. Send one item or a list of 1 to 1,000.</p>
<div id="operations">Reading /openapi.json ...</div>
</main>
<script>
const make = (tag, text, into) => { const e = document.createElement(tag); e.textContent = text; into.append(e); return e; };
function tellType(p) {
  const limits = ["pattern", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength"].filter(k => k in p);
  return (p.enum ? p.enum.join(" | ") : p.format || p.type || "") + limits.map(k => `, ${k} ${p[k]}`).join("");
}
function show(path, verb, op, spec, into) {
  const section = make("section", "", into);
  make("h2", `${verb.toUpperCase()} ${path}`, section);
  make("p", op.summary, section);
  const body = op.requestBody && op.requestBody.content["application/json"];
  if (body) {
    const kind = spec.components.schemas[body.schema.oneOf[0].$ref.split("/").pop()];
    const table = make("table", "", section);
    const head = make("tr", "", table);
    ["field", "needed", "what"].forEach(t => { make("th", t, head).scope = "col"; });
    for (const [name, p] of Object.entries(kind.properties)) {
      const row = make("tr", "", table);
      make("code", name, make("td", "", row));
      make("td", kind.required.includes(name) ? "yes" : "no", row);
      make("td", [p.description, tellType(p)].filter(Boolean).join(" "), row);
    }
  }
  const area = body && make("textarea", "", make("p", "", section));
  if (area) { area.rows = 9; area.value = JSON.stringify(body.example, null, 2); area.setAttribute("aria-label", `Body of ${path}`); }
  const button = make("button", `Try ${path}`, section);
  const out = make("pre", "", section);
  out.hidden = true;
  out.setAttribute("aria-live", "polite");
  button.onclick = async () => {
    const options = area ? { method: "POST", headers: { "content-type": "application/json" }, body: area.value } : {};
    out.hidden = false;
    try {
      const answer = await fetch(path, options);
      out.textContent = answer.status + "\\n" + JSON.stringify(await answer.json(), null, 2);
    } catch (error) { out.textContent = String(error); }
  };
}
fetch("/openapi.json").then(r => r.json()).then(spec => {
  document.title = document.getElementById("title").textContent = spec.info.title;
  const into = document.getElementById("operations");
  into.textContent = "";
  for (const [path, verbs] of Object.entries(spec.paths))
    for (const [verb, op] of Object.entries(verbs)) show(path, verb, op, spec, into);
});
</script>
</body>
</html>
"""
