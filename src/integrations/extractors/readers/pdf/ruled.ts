import { clusters, type Rect } from './geometry.ts';
import { cellText, type Found, type FoundCell } from './found.ts';
import type { PageContent, Piece, Rule } from './page.ts';

/** Two lines nearer than this are one: the two borders of neighbours. */
const tolerance = 3;
/** Of a cell's side that must be there for it to be closed. */
const closed = 0.6;
const maxLines = 2_000;

interface Line extends Rule {
  readonly horizontal: boolean;
}

const touches = (h: Rule, v: Rule): boolean =>
  v.at >= h.from - tolerance && v.at <= h.to + tolerance && h.at >= v.from - tolerance && h.at <= v.to + tolerance;

/** Lines that touch one another, in groups. */
function connected(page: Pick<PageContent, 'horizontal' | 'vertical'>): Line[][] {
  const horizontal = page.horizontal.slice(0, maxLines).map((rule): Line => ({ ...rule, horizontal: true }));
  const vertical = page.vertical.slice(0, maxLines).map((rule): Line => ({ ...rule, horizontal: false }));
  const lines = [...horizontal, ...vertical];
  const parent = lines.map((_, at) => at);
  const root = (at: number): number => {
    let up = at;
    while (parent[up] !== up) {
      parent[up] = parent[parent[up] as number] as number;
      up = parent[up] as number;
    }
    return up;
  };
  for (const [h, one] of horizontal.entries())
    for (const [v, other] of vertical.entries()) if (touches(one, other)) parent[root(horizontal.length + v)] = root(h);
  const groups = new Map<number, Line[]>();
  for (const [at, line] of lines.entries()) {
    const group = groups.get(root(at));
    if (group) group.push(line);
    else groups.set(root(at), [line]);
  }
  return [...groups.values()];
}

/** How much of a stretch the lines at a place cover. */
function covered(lines: readonly Rule[], at: number, from: number, to: number): number {
  let sum = 0;
  let end = from;
  for (const rule of lines) {
    if (Math.abs(rule.at - at) > tolerance) continue;
    const start = Math.max(end, rule.from - 1);
    const stop = Math.min(to, rule.to + 1);
    if (stop > start) {
      sum += stop - start;
      end = stop;
    }
  }
  return to > from ? sum / (to - from) : 0;
}

/** Tables whose cells have lines around them. Gives the pieces of text that are in none, too. */
export function ruledTables(page: PageContent): { tables: Found[]; rest: Piece[] } {
  const tables: Found[] = [];
  let rest = [...page.pieces];
  for (const group of connected(page)) {
    const vertical = group.filter(({ horizontal }) => !horizontal).toSorted((a, b) => a.from - b.from);
    const horizontal = group.filter((line) => line.horizontal).toSorted((a, b) => a.from - b.from);
    const xs = clusters(
      vertical.map(({ at }) => at),
      tolerance,
    );
    const ys = clusters(
      horizontal.map(({ at }) => at),
      tolerance,
    );
    // One row or one column of frames is no table.
    if (xs.length < 3 || ys.length < 3) continue;
    const made = tableOf(xs, ys, vertical, horizontal, rest);
    if (!made) continue;
    tables.push(made.found);
    rest = rest.filter((piece) => !made.used.has(piece));
  }
  return { tables: tables.toSorted((a, b) => a.rect.top - b.rect.top || a.rect.left - b.rect.left), rest };
}

interface Area {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** Neighbours without a line between them are one cell; the cell is the rectangle around them. */
function areasOf(
  xs: readonly number[],
  ys: readonly number[],
  vertical: readonly Rule[],
  horizontal: readonly Rule[],
): Area[][] {
  const [columns, rows] = [xs.length - 1, ys.length - 1];
  const areas: Area[][] = Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (__, column) => ({ left: column, top: row, right: column, bottom: row })),
  );
  const merge = (a: Area, b: Area): void => {
    if (a === b) return;
    a.left = Math.min(a.left, b.left);
    a.top = Math.min(a.top, b.top);
    a.right = Math.max(a.right, b.right);
    a.bottom = Math.max(a.bottom, b.bottom);
    // What is inside of the rectangle belongs to it, also when lines say otherwise: a cell has four sides.
    for (let grown = true; grown;) {
      grown = false;
      for (let row = a.top; row <= a.bottom; row++)
        for (let column = a.left; column <= a.right; column++) {
          const other = areas[row]?.[column] as Area;
          if (other === a) continue;
          const before = [a.left, a.top, a.right, a.bottom].join(' ');
          a.left = Math.min(a.left, other.left);
          a.top = Math.min(a.top, other.top);
          a.right = Math.max(a.right, other.right);
          a.bottom = Math.max(a.bottom, other.bottom);
          (areas[row] as Area[])[column] = a;
          if (before !== [a.left, a.top, a.right, a.bottom].join(' ')) grown = true;
        }
    }
  };
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const [top, bottom] = [ys[row] as number, ys[row + 1] as number];
      const [left, right] = [xs[column] as number, xs[column + 1] as number];
      const area = (): Area => areas[row]?.[column] as Area;
      if (column + 1 < columns && covered(vertical, right, top, bottom) < closed)
        merge(area(), areas[row]?.[column + 1] as Area);
      if (row + 1 < rows && covered(horizontal, bottom, left, right) < closed)
        merge(area(), areas[row + 1]?.[column] as Area);
    }
  return areas;
}

/** Words of a piece that crosses lines, each with its share of the width. */
function words(piece: Piece): Piece[] {
  const each = (piece.right - piece.left) / piece.text.length;
  return [...piece.text.matchAll(/\S+/g)].map(({ 0: text, index }) => ({
    ...piece,
    text,
    left: piece.left + index * each,
    right: piece.left + (index + text.length) * each,
  }));
}

const between = (edges: readonly number[], value: number): number => {
  let at = -1;
  while (at + 1 < edges.length && (edges[at + 1] as number) <= value) at += 1;
  return at >= 0 && at < edges.length - 1 ? at : -1;
};

function tableOf(
  xs: readonly number[],
  ys: readonly number[],
  vertical: readonly Rule[],
  horizontal: readonly Rule[],
  pieces: readonly Piece[],
): { found: Found; used: Set<Piece> } | null {
  const areas = areasOf(xs, ys, vertical, horizontal);
  const used = new Set<Piece>();
  const content = new Map<Area, { pieces: Piece[]; place: number }>();
  const areaAt = (x: number, y: number): Area | undefined => areas[between(ys, y)]?.[between(xs, x)];
  const put = (piece: Piece, area: Area, place: number): void => {
    const there = content.get(area);
    if (there) {
      there.pieces.push(piece);
      there.place = Math.min(there.place, place);
    } else content.set(area, { pieces: [piece], place });
  };
  for (const piece of pieces) {
    const y = (piece.top + piece.bottom) / 2;
    const area = areaAt((piece.left + piece.right) / 2, y);
    if (!area) continue;
    used.add(piece);
    const crosses =
      piece.upright &&
      (piece.left < (xs[area.left] as number) - tolerance || piece.right > (xs[area.right + 1] as number) + tolerance);
    if (!crosses) {
      put(piece, area, 1);
      continue;
    }
    // A program that writes a row in one go: the lines say where it is divided, the widths of letters about where.
    for (const word of words(piece)) {
      const own = areaAt((word.left + word.right) / 2, y) ?? area;
      put(word, own, 0.8);
    }
  }
  const rectOf = (area: Area): Rect => ({
    left: xs[area.left] as number,
    top: ys[area.top] as number,
    right: xs[area.right + 1] as number,
    bottom: ys[area.bottom + 1] as number,
  });
  const rows = areas.map((row, at) =>
    row.map((area, column): FoundCell => {
      const there = content.get(area);
      return {
        text: there ? cellText(there.pieces) : '',
        rect: rectOf(area),
        place: there?.place ?? 1,
        covered: area.left !== column || area.top !== at,
      };
    }),
  );
  const filled = new Set(areas.flat().filter((area) => content.has(area)));
  if (filled.size < 2) return null;
  return {
    found: {
      rect: { left: xs[0] as number, top: ys[0] as number, right: xs.at(-1) as number, bottom: ys.at(-1) as number },
      ruled: true,
      columns: xs.slice(0, -1).map((left, at) => [left, xs[at + 1] as number] as const),
      rows: rows.filter((row) => row.some(({ text, covered: repeats }) => text !== '' && !repeats)),
    },
    used,
  };
}
