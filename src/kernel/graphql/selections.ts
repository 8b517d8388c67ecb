/** What `edges` and `nodes` ask of a run, as one selection; its id where neither asks for anything. */
export function asked(...selections: unknown[]): unknown {
  const some = selections.filter(
    (one) => !(isRecord(one) && isRecord(one['select']) && Object.keys(one['select']).length === 0),
  );
  return some.length === 0 ? { select: { id: true } } : some.reduce(merged);
}

function merged(a: unknown, b: unknown): unknown {
  if (!isRecord(a)) return b;
  if (!isRecord(b)) return a;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return Object.fromEntries([...keys].map((key) => [key, merged(a[key], b[key])]));
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
