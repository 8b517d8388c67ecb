import { OPS } from 'unpdf/pdfjs';
import { apply, around, corners, times, type Matrix, type Point, type Rect } from './geometry.ts';

/** A piece of text that stands together. */
export interface Piece extends Rect {
  readonly text: string;
  /** Its line's foot. */
  readonly baseline: number;
  /** Of its letters, points. */
  readonly size: number;
  /** Runs from left to right in this frame. */
  readonly upright: boolean;
}

/** A stroke or a thin area: horizontal (`at` is y, from and to are x) or vertical. */
export interface Rule {
  readonly at: number;
  readonly from: number;
  readonly to: number;
}

export interface PageContent {
  readonly number: number;
  /** Of the frame in which the text can be read. */
  readonly width: number;
  readonly height: number;
  readonly pieces: readonly Piece[];
  readonly horizontal: readonly Rule[];
  readonly vertical: readonly Rule[];
  /** Something is on it that is no text. */
  readonly drawn: boolean;
  /** From the frame to the page as a reader of the document sees it. */
  readonly toPage: (rect: Rect) => Rect;
  readonly fromPage: (rect: Rect) => Rect;
}

/** An area this thin is a line, points. */
const maxPen = 3;
/** A shorter stroke is none of a table's. */
const minRule = 4;
/** Two strokes in one line that are so near are one. */
const maxGap = 3;
const maxRules = 200_000;

// Codes of a path's data, beside OPS.
const moveTo = 0;
const lineTo = 1;
const curveTo = 2;
const quadraticCurveTo = 3;

const strokes = new Set<number>([
  OPS.stroke,
  OPS.closeStroke,
  OPS.fillStroke,
  OPS.eoFillStroke,
  OPS.closeFillStroke,
  OPS.closeEOFillStroke,
]);
const fills = new Set<number>([
  OPS.fill,
  OPS.eoFill,
  OPS.fillStroke,
  OPS.eoFillStroke,
  OPS.closeFillStroke,
  OPS.closeEOFillStroke,
]);
const unpainted = new Set<number>([
  OPS.save,
  OPS.restore,
  OPS.transform,
  OPS.dependency,
  OPS.setGState,
  OPS.beginMarkedContent,
  OPS.beginMarkedContentProps,
  OPS.endMarkedContent,
  OPS.endPath,
]);

interface TextItem {
  readonly str: string;
  readonly transform: Matrix;
  readonly width: number;
  readonly height: number;
}

/** What the parser says of a page. */
export interface PageParts {
  readonly items: readonly TextItem[];
  readonly operators: readonly number[];
  readonly args: readonly unknown[];
  /** From the page's own coordinates to those of a reader, who sees it turned as /Rotate says. */
  readonly transform: Matrix;
  readonly width: number;
  readonly height: number;
}

/** A page's text and lines, turned so that most of its text runs from left to right. */
export function contentOf(
  number: number,
  { items, operators, args, transform, width, height }: PageParts,
): PageContent {
  const texts = items.filter(({ str }) => str.trim() !== '');
  const turns = [0, 0, 0, 0];
  for (const { str, transform: own } of texts) {
    const quarter = quarterOf(times(transform, own));
    if (quarter !== null) turns[quarter] = (turns[quarter] ?? 0) + str.length;
  }
  const quarter = turns.indexOf(Math.max(...turns));
  const turn = turned(quarter, width, height);
  const back = inverse(turn);
  const toFrame = times(turn, transform);
  const pieces = texts.map((item) => pieceOf(item, toFrame)).filter((piece) => piece !== null);
  const rules = rulesOf(operators, args, toFrame);
  const sideways = quarter % 2 === 1;
  const through = (m: Matrix) => (rect: Rect) => around(corners(rect).map((point) => apply(m, point)));
  return {
    number,
    width: sideways ? height : width,
    height: sideways ? width : height,
    pieces,
    ...rules,
    drawn: operators.some((fn, at) => !unpainted.has(fn) || (fn === OPS.transform && isLarge(args[at]))),
    toPage: through(back),
    fromPage: through(turn),
  };
}

/** Images are left out before they are decoded; what is left of one is that the page was scaled to its size. */
const isLarge = (matrix: unknown): boolean =>
  Array.isArray(matrix) && Math.abs(Number(matrix[0])) + Math.abs(Number(matrix[1])) > 50;

/** Which way text runs, in quarter turns clockwise; null: slanting. */
function quarterOf(m: Matrix): number | null {
  const angle = Math.atan2(m[1], m[0]) / (Math.PI / 2);
  const quarter = Math.round(angle);
  return Math.abs(angle - quarter) > 0.05 ? null : (quarter + 4) % 4;
}

/** The page turned back by quarters. */
function turned(quarter: number, width: number, height: number): Matrix {
  if (quarter === 1) return [0, -1, 1, 0, 0, width];
  if (quarter === 2) return [-1, 0, 0, -1, width, height];
  if (quarter === 3) return [0, 1, -1, 0, height, 0];
  return [1, 0, 0, 1, 0, 0];
}

function inverse([a, b, c, d, e, f]: Matrix): Matrix {
  const det = a * d - b * c;
  return [d / det, -b / det, -c / det, a / det, (c * f - d * e) / det, (b * e - a * f) / det];
}

function pieceOf({ str, transform, width }: TextItem, toFrame: Matrix): Piece | null {
  const m = times(toFrame, transform);
  const [along, up] = [Math.hypot(m[0], m[1]), Math.hypot(m[2], m[3])];
  const size = up;
  if (!(along > 0 && up > 0) || !Number.isFinite(size + m[4] + m[5])) return null;
  const right: Point = [m[0] / along, m[1] / along];
  const upward: Point = [m[2] / up, m[3] / up];
  const at = (x: number, y: number): Point => [
    m[4] + right[0] * x + upward[0] * y,
    m[5] + right[1] * x + upward[1] * y,
  ];
  const box = around([at(0, -0.22 * size), at(width, -0.22 * size), at(0, 0.75 * size), at(width, 0.75 * size)]);
  return { ...box, text: str, baseline: m[5], size, upright: quarterOf(m) === 0 };
}

interface Paint {
  readonly horizontal: Rule[];
  readonly vertical: Rule[];
}

function rulesOf(fns: readonly number[], args: readonly unknown[], toFrame: Matrix): Paint {
  const found: Paint = { horizontal: [], vertical: [] };
  const stack: Matrix[] = [];
  let matrix = toFrame;
  for (const [at, fn] of fns.entries()) {
    if (fn === OPS.save) stack.push(matrix);
    else if (fn === OPS.restore || fn === OPS.paintFormXObjectEnd) matrix = stack.pop() ?? toFrame;
    else if (fn === OPS.transform) matrix = times(matrix, args[at] as Matrix);
    else if (fn === OPS.paintFormXObjectBegin) {
      stack.push(matrix);
      const [form] = args[at] as [Matrix | null];
      if (form) matrix = times(matrix, form);
    } else if (fn === OPS.constructPath) {
      const [paint, [data]] = args[at] as [number, [ArrayLike<number> | null]];
      if (data && (strokes.has(paint) || fills.has(paint))) addPath(found, data, matrix, paint);
    }
    if (found.horizontal.length + found.vertical.length > maxRules) break;
  }
  return { horizontal: joined(found.horizontal), vertical: joined(found.vertical) };
}

function addPath(found: Paint, data: ArrayLike<number>, matrix: Matrix, paint: number): void {
  let points: Point[] = [];
  let curved = false;
  const flush = (): void => {
    if (!curved && points.length > 1) {
      const box = around(points);
      const [width, height] = [box.right - box.left, box.bottom - box.top];
      // A thin area is how many programs draw a line.
      if (Math.min(width, height) <= maxPen) addRule(found, box);
      else if (strokes.has(paint))
        for (const [index, point] of points.entries()) {
          const next = points[index + 1];
          if (next) addRule(found, around([point, next]));
        }
    }
    points = [];
    curved = false;
  };
  for (let at = 0; at < data.length;) {
    const code = data[at++];
    const point = (): Point => apply(matrix, [data[at++] ?? 0, data[at++] ?? 0]);
    if (code === moveTo) {
      flush();
      points.push(point());
    } else if (code === lineTo) points.push(point());
    else if (code === curveTo || code === quadraticCurveTo) {
      curved = true;
      at += code === curveTo ? 6 : 4;
    } else if (points[0]) points.push(points[0]);
  }
  flush();
}

function addRule({ horizontal, vertical }: Paint, { left, top, right, bottom }: Rect): void {
  const [width, height] = [right - left, bottom - top];
  if (height <= maxPen && width >= minRule && width > height)
    horizontal.push({ at: (top + bottom) / 2, from: left, to: right });
  else if (width <= maxPen && height >= minRule) vertical.push({ at: (left + right) / 2, from: top, to: bottom });
}

/** Strokes of one line as one: many programs draw a border for each cell. */
function joined(rules: readonly Rule[]): Rule[] {
  const result: Rule[] = [];
  const sorted = rules.toSorted((a, b) => a.at - b.at || a.from - b.from);
  for (let start = 0; start < sorted.length;) {
    let end = start + 1;
    while (end < sorted.length && (sorted[end] as Rule).at - (sorted[end - 1] as Rule).at <= 1) end += 1;
    const group = sorted.slice(start, end).toSorted((a, b) => a.from - b.from);
    const at = group.reduce((sum, rule) => sum + rule.at, 0) / group.length;
    let open: { from: number; to: number } | null = null;
    for (const rule of group) {
      if (open && rule.from - open.to <= maxGap) open.to = Math.max(open.to, rule.to);
      else {
        if (open) result.push({ at, ...open });
        open = { from: rule.from, to: rule.to };
      }
    }
    if (open) result.push({ at, ...open });
    start = end;
  }
  return result;
}
