import type { Box } from '../../extractor.ts';

/** `[a, b, c, d, e, f]` of x' = ax + cy + e, y' = bx + dy + f. */
export type Matrix = readonly [number, number, number, number, number, number];

/** First `inner`, then `outer`. */
export const times = (outer: Matrix, inner: Matrix): Matrix => [
  outer[0] * inner[0] + outer[2] * inner[1],
  outer[1] * inner[0] + outer[3] * inner[1],
  outer[0] * inner[2] + outer[2] * inner[3],
  outer[1] * inner[2] + outer[3] * inner[3],
  outer[0] * inner[4] + outer[2] * inner[5] + outer[4],
  outer[1] * inner[4] + outer[3] * inner[5] + outer[5],
];

export type Point = readonly [x: number, y: number];

export const apply = (m: Matrix, [x, y]: Point): Point => [m[0] * x + m[2] * y + m[4], m[1] * x + m[3] * y + m[5]];

/** Edges, in the coordinates of a frame: y downwards. */
export interface Rect {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

export function around(points: readonly Point[]): Rect {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) {
    left = Math.min(left, x);
    top = Math.min(top, y);
    right = Math.max(right, x);
    bottom = Math.max(bottom, y);
  }
  return { left, top, right, bottom };
}

export const corners = ({ left, top, right, bottom }: Rect): Point[] => [
  [left, top],
  [right, top],
  [right, bottom],
  [left, bottom],
];

export const union = (a: Rect, b: Rect): Rect => ({
  left: Math.min(a.left, b.left),
  top: Math.min(a.top, b.top),
  right: Math.max(a.right, b.right),
  bottom: Math.max(a.bottom, b.bottom),
});

export const holds = (rect: Rect, x: number, y: number): boolean =>
  x >= rect.left && x <= rect.right && y >= rect.top && y <= rect.bottom;

const rounded = (value: number): number => Math.round(value * 100) / 100;

export const boxOf = ({ left, top, right, bottom }: Rect): Box => [
  rounded(left),
  rounded(top),
  rounded(right - left),
  rounded(bottom - top),
];

/** Positions that are the same but for the width of a pen: their means, ascending. */
export function clusters(values: readonly number[], tolerance: number): number[] {
  const means: number[] = [];
  let sum = 0;
  let count = 0;
  let last = -Infinity;
  for (const value of values.toSorted((a, b) => a - b)) {
    if (count > 0 && value - last > tolerance) {
      means.push(sum / count);
      [sum, count] = [0, 0];
    }
    sum += value;
    count += 1;
    last = value;
  }
  if (count > 0) means.push(sum / count);
  return means;
}
