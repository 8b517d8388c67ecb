/** `1-3,7` as ranges in ascending order; null when it is not that. */
export function parsePages(text: string): readonly (readonly [from: number, to: number])[] | null {
  const ranges: [number, number][] = [];
  for (const part of text.split(',')) {
    const found = /^\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?$/.exec(part);
    const from = Number(found?.[1] ?? '0');
    const to = Number(found?.[2] ?? found?.[1] ?? '0');
    if (from < 1 || to < from) return null;
    ranges.push([from, to]);
  }
  return ranges.toSorted((a, b) => a[0] - b[0]);
}
