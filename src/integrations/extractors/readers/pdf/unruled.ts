import { union, type Rect } from './geometry.ts';
import { lineText, reading, type Found, type FoundCell } from './found.ts';
import type { Piece } from './page.ts';

/** Text of one line that stands together: a cell, or a part of one. */
interface Segment extends Rect {
  readonly text: string;
  readonly size: number;
}

interface Line {
  readonly segments: readonly Segment[];
  readonly baseline: number;
  readonly size: number;
  readonly top: number;
  readonly bottom: number;
}

interface Column {
  left: number;
  right: number;
}

/** Room between two pieces that divides cells, of the letters' size. A word space is a quarter to a third. */
const dividing = 0.7;
/** Baselines further apart end a table, of the letters' size. */
const farApart = 3.5;
/** More words in each cell are prose, in columns. */
const proseWords = 6;
/** The same edge, of the letters' size. */
const aligned = 0.3;

function linesOf(pieces: readonly Piece[]): Line[] {
  return reading(pieces.filter(({ upright }) => upright)).map((line) => {
    const segments: Segment[] = [];
    let open: Piece[] = [];
    const close = (): void => {
      const [first] = open;
      if (!first) return;
      const text = lineText(open);
      const rect = open.reduce<Rect>(union, first);
      if (text !== '')
        segments.push({
          left: rect.left,
          top: rect.top,
          right: rect.right,
          bottom: rect.bottom,
          text,
          size: first.size,
        });
      open = [];
    };
    for (const piece of line) {
      const last = open.at(-1);
      if (last && piece.left - last.right > Math.max(piece.size, last.size) * dividing) close();
      open.push(piece);
    }
    close();
    return {
      segments,
      baseline: line[0]?.baseline ?? 0,
      size: Math.max(...line.map(({ size }) => size)),
      top: Math.min(...segments.map(({ top }) => top)),
      bottom: Math.max(...segments.map(({ bottom }) => bottom)),
    };
  });
}

/** Columns with the line's segments in them; null when one of them lies over the room between two. */
function widened(columns: readonly Column[], line: Line): Column[] | null {
  const result = columns.map((column) => ({ ...column }));
  for (const { left, right } of line.segments) {
    const over = result.filter((column) => column.left < right && column.right > left);
    if (over.length > 1) return null;
    const [column] = over;
    if (column) {
      column.left = Math.min(column.left, left);
      column.right = Math.max(column.right, right);
    } else result.push({ left, right });
  }
  result.sort((a, b) => a.left - b.left);
  // Two that have grown into one another are no two.
  return result.some((column, at) => at > 0 && column.left < (result[at - 1] as Column).right) ? null : result;
}

interface Block {
  lines: Line[];
  columns: Column[];
}

/** Stretches of lines that have the same room between their columns. */
function blocksOf(lines: readonly Line[], forced: boolean): Block[] {
  const blocks: Block[] = [];
  let block: Block = { lines: [], columns: [] };
  const close = (): void => {
    // Single texts at the end are below the table.
    if (!forced) block.lines.length = 1 + block.lines.findLastIndex(({ segments }) => segments.length > 1);
    if (block.lines.length > 0) blocks.push(block);
    block = { lines: [], columns: [] };
  };
  for (const line of lines) {
    if (line.segments.length === 0) continue;
    const last = block.lines.at(-1);
    if (last && !forced && line.baseline - last.baseline > Math.max(last.size, line.size) * farApart) close();
    const columns = widened(block.columns, line);
    if (block.lines.length === 0 ? line.segments.length < 2 : !columns) close();
    // What ends one may begin the next.
    if (block.lines.length === 0 && line.segments.length < 2) continue;
    block.columns =
      (block.lines.length === 0 ? null : columns) ?? line.segments.map(({ left, right }) => ({ left, right }));
    block.lines.push(line);
  }
  close();
  return blocks;
}

/** Lines of one row: what goes on below without the first column, nearer than rows are. */
function rowsOf({ lines, columns }: Block): Line[][] {
  const first = (line: Line): boolean =>
    line.segments.some(({ left, right }) => left < (columns[0]?.right ?? 0) && right > (columns[0]?.left ?? 0));
  const steps = lines.slice(1).map((line, at) => line.baseline - (lines[at] as Line).baseline);
  const between = steps.filter((_, at) => first(lines[at + 1] as Line)).toSorted((a, b) => a - b);
  const usual = between[Math.floor(between.length / 2)] ?? 0;
  const rows: Line[][] = [];
  for (const [at, line] of lines.entries()) {
    const row = rows.at(-1);
    const goesOn = row && at > 1 && !first(line) && (steps[at - 1] ?? Infinity) < usual * 0.85;
    if (goesOn) row.push(line);
    else rows.push([line]);
  }
  return rows;
}

/** How well a column's texts share an edge or their middle: 1 all of them, less when only some. */
function alignmentOf(segments: readonly Segment[]): number {
  if (segments.length < 2) return 1;
  const most = (value: (segment: Segment) => number): number => {
    const values = segments.map(value).toSorted((a, b) => a - b);
    const tolerance = (segments[0] as Segment).size * aligned;
    let best = 0;
    for (let from = 0, to = 0; to < values.length; to++) {
      while ((values[to] as number) - (values[from] as number) > tolerance * 2) from += 1;
      best = Math.max(best, to - from + 1);
    }
    return best / values.length;
  };
  return Math.max(
    most(({ left }) => left),
    most(({ right }) => right),
    most(({ left, right }) => (left + right) / 2),
  );
}

/**
 * Tables that have no lines around their cells: texts above each other, with room between the columns.
 * @param forced whether somebody says that there is one table here
 */
export function unruledTables(pieces: readonly Piece[], forced = false): Found[] {
  const found: Found[] = [];
  for (const block of blocksOf(linesOf(pieces), forced)) {
    const { columns } = block;
    const rows = rowsOf(block);
    const segments = rows.flat().flatMap((line) => line.segments);
    const manyWords = segments.reduce((sum, { text }) => sum + text.split(' ').length, 0) / segments.length;
    const enough = forced || rows.length >= 3 || (rows.length === 2 && columns.length >= 3);
    if (columns.length < 2 || !enough || (!forced && manyWords > proseWords)) continue;
    const inColumn = ({ left, right }: Segment): number =>
      columns.findIndex((column) => column.left < right && column.right > left);
    const filled =
      rows.flat().reduce((sum, line) => sum + line.segments.length, 0) / (rows.flat().length * columns.length);
    // Two texts side by side here and there are no table.
    if (!forced && filled < 0.4) continue;
    const places = columns.map((column, at) => {
      const own = segments.filter((segment) => inColumn(segment) === at);
      const size = own[0]?.size ?? 10;
      const room = Math.min(
        column.left - (columns[at - 1]?.right ?? -Infinity),
        (columns[at + 1]?.left ?? Infinity) - column.right,
      );
      // From 0.5 to 0.95: three parts from the edges, one from how much of the table is filled, less where it is narrow.
      const score = 0.5 + 0.35 * alignmentOf(own) + 0.1 * Math.min(1, filled / 0.8);
      return Math.round(score * (room < size ? 0.9 : 1) * 1000) / 1000;
    });
    const made = rows.map((lines) =>
      columns.map((column, at): FoundCell => {
        const own = lines.flatMap((line) => line.segments.filter((segment) => inColumn(segment) === at));
        const [first] = own;
        const empty: Rect = {
          left: column.left,
          right: column.right,
          top: Math.min(...lines.map(({ top }) => top)),
          bottom: Math.max(...lines.map(({ bottom }) => bottom)),
        };
        return {
          text: own.map(({ text }) => text).join('\n'),
          rect: first ? own.reduce<Rect>(union, first) : empty,
          place: places[at] ?? 0.5,
          covered: false,
        };
      }),
    );
    found.push({
      rect: segments.reduce<Rect>(union, segments[0] as Rect),
      ruled: false,
      columns: columns.map(({ left, right }) => [left, right] as const),
      rows: made,
    });
  }
  return found;
}
