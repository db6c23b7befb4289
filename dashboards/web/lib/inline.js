// Small values on one line, as TOML writes them inside braces: part = "all", count = 450.

/** Return `key = value, key = value` of a flat or nested object. */
export function inlineText(value) {
  return Object.entries(value).map(([key, inner]) => `${key} = ${literal(inner)}`).join(', ');
}

function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`;
  if (value !== null && typeof value === 'object') return `{ ${inlineText(value)} }`;
  return JSON.stringify(value);
}

/** Split at commas that are inside no quotes and no brackets. */
function split(text) {
  const found = [];
  let depth = 0;
  let quote = null;
  let from = 0;
  for (let i = 0; i < text.length; i += 1) {
    const letter = text[i];
    if (quote) {
      if (letter === '\\') i += 1;
      else if (letter === quote) quote = null;
    } else if (letter === '"' || letter === "'") quote = letter;
    else if ('[{'.includes(letter)) depth += 1;
    else if (']}'.includes(letter)) depth -= 1;
    else if (letter === ',' && depth === 0) {
      found.push(text.slice(from, i));
      from = i + 1;
    }
  }
  found.push(text.slice(from));
  return found;
}

function pieces(text) {
  return split(text).map((piece) => piece.trim()).filter(Boolean);
}

/** Read a value as `parseLoose`, and values with commas between them as a list. */
export function parseValueOrList(text) {
  return split(text).length > 1 ? pieces(text).map(parseLoose) : parseLoose(text);
}

/** Read a value as TOML or JSON writes it; text that is neither is itself. */
export function parseLoose(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith('{') && trimmed.endsWith('}')) return parseInline(trimmed.slice(1, -1));
  if (trimmed.startsWith('[') && trimmed.endsWith(']')) return pieces(trimmed.slice(1, -1)).map(parseLoose);
  if (/^'.*'$/.test(trimmed)) return trimmed.slice(1, -1);
  if (/^[+-]?\.\d+$/.test(trimmed)) return Number(trimmed); // JSON wants a digit before the point
  try {
    return JSON.parse(trimmed);
  } catch {
    return trimmed;
  }
}

/** Read what `inlineText` writes; what is no `key = value` becomes a key the server will refuse by name. */
export function parseInline(text) {
  return Object.fromEntries(pieces(text).map((piece) => {
    const at = piece.indexOf('=');
    return at < 0 ? [piece, ''] : [piece.slice(0, at).trim(), parseLoose(piece.slice(at + 1))];
  }));
}
