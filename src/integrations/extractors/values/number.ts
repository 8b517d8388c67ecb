/** What a number was written as. */
export interface NumberReading {
  /** Canonical: `-1234.5`, no exponent, no group separators, no zeros that say nothing but those of the fraction. */
  readonly value: string;
  /** Another reading is as good: `1,234` is one thousand or one and a bit. */
  readonly ambiguous: boolean;
  /** What this text says about the decimal separator; null: nothing. */
  readonly decimal: '.' | ',' | null;
}

const currencies = new Set(Intl.supportedValuesOf('currency'));

/** Longest text that can be a number with its signs and currency. */
const maxChars = 80;

function withoutCurrency(text: string): string {
  const bare = text.replace(/^\p{Sc}\s?|\s?\p{Sc}$/u, '');
  const [, before, body = '', after] = /^([A-Z]{3})?\s*(.*?)\s*([A-Z]{3})?$/s.exec(bare) ?? [];
  if (before !== undefined && after === undefined && currencies.has(before)) return body;
  if (after !== undefined && before === undefined && currencies.has(after)) return body;
  return bare;
}

const grouped = (digits: string, separator: string): boolean => {
  const [first = '', ...rest] = digits.split(separator);
  const last = rest.at(-1) ?? '';
  // 1,234,567, and 12,34,567 of India.
  return (
    /^[1-9]\d{0,2}$/.test(first) &&
    last.length === 3 &&
    (rest.every((group) => group.length === 3) ||
      (first.length < 3 && rest.slice(0, -1).every((group) => group.length === 2)))
  );
};

/** Whole and fraction of digits with separators, or null. `decimal` is known from elsewhere. */
function partsOf(
  digits: string,
  decimal: '.' | ',' | null,
): { whole: string; fraction: string; ambiguous: boolean; says: '.' | ',' | null } | null {
  // Spaces and apostrophes only ever group.
  const marks = new Set(digits.match(/[ '’]/g));
  if (marks.size > 1) return null;
  const mark = [...marks][0];
  const [, start = '', tail = ''] = /^(.*?)((?:[.,]\d*)?)$/.exec(digits) ?? [];
  if (mark !== undefined) {
    if (!/^[\d '’]+$/.test(start) || !grouped(start, mark)) return null;
    const separator = tail[0] as '.' | ',' | undefined;
    if (separator !== undefined && (tail.length === 1 || (decimal && decimal !== separator))) return null;
    return { whole: start.replaceAll(mark, ''), fraction: tail.slice(1), ambiguous: false, says: separator ?? null };
  }
  const dots = digits.split('.').length - 1;
  const commas = digits.split(',').length - 1;
  if (dots + commas === 0) return { whole: digits, fraction: '', ambiguous: false, says: null };
  if (dots > 0 && commas > 0) {
    const last = digits.lastIndexOf('.') > digits.lastIndexOf(',') ? '.' : ',';
    const other = last === '.' ? ',' : '.';
    const [whole = '', fraction = '', more] = digits.split(last);
    if (more !== undefined || fraction === '' || (decimal && decimal !== last) || !grouped(whole, other)) return null;
    return { whole: whole.replaceAll(other, ''), fraction, ambiguous: false, says: last };
  }
  const separator = dots > 0 ? '.' : ',';
  const other = separator === '.' ? ',' : '.';
  if (dots + commas > 1) {
    if (decimal === separator || !grouped(digits, separator)) return null;
    return { whole: digits.replaceAll(separator, ''), fraction: '', ambiguous: false, says: other };
  }
  const [whole = '', fraction = ''] = digits.split(separator);
  if (fraction === '' && whole === '') return null;
  const canGroup = grouped(digits, separator);
  if (decimal === separator || !canGroup) {
    if (decimal && decimal !== separator) return null;
    if (fraction === '') return null;
    return { whole: whole || '0', fraction, ambiguous: false, says: canGroup ? null : separator };
  }
  if (decimal) return { whole: whole + fraction, fraction: '', ambiguous: false, says: null };
  // Nobody says. Read as English has it, and told.
  return separator === ','
    ? { whole: whole + fraction, fraction: '', ambiguous: true, says: null }
    : { whole, fraction, ambiguous: true, says: null };
}

/** Moves the decimal point of digits to the left. */
function shifted(whole: string, fraction: string, places: number): [string, string] {
  const padded = whole.padStart(places + 1, '0');
  return [padded.slice(0, -places).replace(/^0+(?=\d)/, ''), padded.slice(-places) + fraction];
}

/**
 * Reads a number as people write them: groups, currency, percent (`12 %` is 0.12), parentheses or a minus on either side.
 * Digits with a leading zero are no number: they are codes whose zero counts.
 * @param decimal the decimal separator, where it is known
 * @param declared whether the column is said to be of numbers: exponents are read then, too
 */
export function readNumber(given: string, decimal: '.' | ',' | null, declared = false): NumberReading | null {
  if (given.length > maxChars || !/\d/.test(given)) return null;
  // Most are this.
  if (/^(?:0|-?[1-9]\d*)$/.test(given)) return { value: given, ambiguous: false, decimal: null };
  // Or that: three digits after the point could be a group of thousands.
  if (decimal !== ',' && /^(?:0|[1-9]\d*)\.(?:\d\d?|\d{4,})$/.test(given))
    return { value: given, ambiguous: false, decimal: '.' };
  let text = given
    .replaceAll(/[\u00A0\u2007\u2009\u202F]/g, ' ')
    .replaceAll('\u2212', '-')
    .trim();
  let negative = false;
  const minus = (found: RegExpExecArray | null): void => {
    if (!found || negative) return;
    negative = true;
    text = (found[1] ?? '').trim();
  };
  minus(/^\((.*)\)$/s.exec(text));
  const signed = /^\+(?=[^+-])(.*)$/s.exec(text);
  if (signed) text = (signed[1] ?? '').trim();
  else minus(/^-(.*)$/s.exec(text));
  const percent = /\s?%$/.test(text);
  if (percent) text = text.replace(/\s?%$/, '');
  else text = withoutCurrency(text);
  minus(/^-(.*)$/s.exec(text));
  minus(/^(.*\d)-$/s.exec(text));
  if (declared) {
    const scientific = /^(\d+(?:[.,]\d+)?)[eE]([+-]?\d{1,3})$/.exec(text);
    if (scientific) {
      const value = Number(`${(scientific[1] ?? '').replace(',', '.')}e${scientific[2]}`);
      if (!Number.isFinite(value)) return null;
      return { value: plain(negative ? -value : value), ambiguous: false, decimal: null };
    }
  }
  if (!/^[\d., '’]+$/.test(text) || !/^[\d.,]/.test(text) || !/\d$/.test(text)) return null;
  if (/^0\d/.test(text)) return null;
  const parts = partsOf(text, decimal);
  if (!parts || !/^\d+$/.test(parts.whole) || !/^\d*$/.test(parts.fraction)) return null;
  const [whole, fraction] = percent ? shifted(parts.whole, parts.fraction, 2) : [parts.whole, parts.fraction];
  // 12 % is 0.12, and 100 % is 1: the zeros are the percent's, not the writer's.
  const kept = percent ? fraction.replace(/0+$/, '') : fraction;
  const zero = /^0*$/.test(whole + kept);
  return {
    value: `${negative && !zero ? '-' : ''}${whole}${kept ? `.${kept}` : ''}`,
    ambiguous: parts.ambiguous,
    decimal: parts.says,
  };
}

/** A number of JavaScript without an exponent: what a spreadsheet stores is that, shortest digits that give it back. */
export function plain(value: number): string {
  const text = String(Object.is(value, -0) ? 0 : value);
  const found = /^(-?)(\d)(?:\.(\d+))?e([+-])(\d+)$/.exec(text);
  if (!found) return text;
  const [, sign = '', first = '', rest = '', direction, exponent] = found;
  const digits = first + rest;
  const by = Number(exponent);
  return direction === '+' ? `${sign}${digits.padEnd(by + 1, '0')}` : `${sign}0.${'0'.repeat(by - 1)}${digits}`;
}

/** The decimal separator of a language; null where it is neither of the two. */
export function decimalOf(locale: string | undefined): '.' | ',' | null {
  if (locale === undefined) return null;
  const found = new Intl.NumberFormat(locale, { numberingSystem: 'latn' })
    .formatToParts(1.5)
    .find(({ type }) => type === 'decimal')?.value;
  return found === '.' || found === ',' ? found : null;
}
