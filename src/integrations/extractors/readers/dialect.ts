/** How a text is divided into fields. */
export interface Dialect {
  readonly delimiter: string;
  /** Empty: there is no quoting. */
  readonly quote: string;
  readonly lineEnds: readonly string[];
}

const delimiters = [',', ';', '\t', '|'] as const;

/** Numbers of fields in the records of a text, the last of which may be cut off. */
function widths(text: string, delimiter: string, quote: string, most = 500): number[] {
  const found: number[] = [];
  let fields = 1;
  let quoted = false;
  let begins = true;
  let empty = true;
  for (let at = 0; at < text.length && found.length < most; at++) {
    const char = text[at];
    if (quoted) {
      if (char === quote && text[at + 1] === quote) at += 1;
      else if (char === quote) quoted = false;
      continue;
    }
    if (char === '\n' || char === '\r') {
      if (!empty) found.push(fields);
      fields = 1;
      begins = true;
      empty = true;
      continue;
    }
    empty = false;
    if (begins && quote !== '' && char === quote) quoted = true;
    begins = char === delimiter;
    if (begins) fields += 1;
  }
  // A quote that never closes is none.
  if (quoted) return [];
  if (!empty && found.length === 0) found.push(fields);
  return found;
}

/** How alike the records are, and how much is divided: 0 when nothing is. */
function score(found: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const width of found) counts.set(width, (counts.get(width) ?? 0) + 1);
  const [width, count] = [...counts].reduce((best, one) => (one[1] > best[1] ? one : best), [1, 0]);
  if (width < 2) return 0;
  return (count / found.length) * (1 + Math.log2(width) / 10);
}

/**
 * How the text is divided, from its beginning: the delimiter that gives most records the same number of fields, more than
 * one. Where none does, commas, or what the format says.
 */
export function dialectOf(
  sample: string,
  told: {
    readonly delimiter?: string | undefined;
    readonly quote?: string | undefined;
    readonly format: 'CSV' | 'TSV';
  },
): Dialect {
  const quotes = told.quote === undefined ? ['"', "'", ''] : [told.quote];
  const candidates = told.delimiter === undefined ? delimiters : [told.delimiter];
  let best = { delimiter: told.delimiter ?? (told.format === 'TSV' ? '\t' : ','), quote: told.quote ?? '"' };
  let most = 0;
  for (const quote of quotes) {
    // Apostrophes quote only where they stand around fields.
    if (told.quote === undefined && quote === "'" && (sample.includes('"') || !/(?:^|[,;\t|])'/m.test(sample)))
      continue;
    for (const delimiter of candidates) {
      const value = score(widths(sample, delimiter, quote)) * (told.format === 'TSV' && delimiter === '\t' ? 1.2 : 1);
      if (value > most + 0.001) {
        best = { delimiter, quote };
        most = value;
      }
    }
  }
  return { ...best, lineEnds: lineEndsOf(sample, best.quote, best.delimiter) };
}

/** A lone carriage return ends a line only where nothing else does. */
function lineEndsOf(sample: string, quote: string, delimiter: string): string[] {
  let quoted = false;
  let begins = true;
  let lone = false;
  for (let at = 0; at < sample.length; at++) {
    const char = sample[at];
    if (quoted) {
      if (char === quote && sample[at + 1] === quote) at += 1;
      else if (char === quote) quoted = false;
      continue;
    }
    if (char === '\n') return ['\r\n', '\n'];
    if (char === '\r') lone = true;
    if (begins && quote !== '' && char === quote) quoted = true;
    begins = char === delimiter || char === '\r';
  }
  return lone ? ['\r'] : ['\r\n', '\n'];
}
