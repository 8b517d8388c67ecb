/** What a date was written as. */
export interface DateReading {
  readonly type: 'DATE' | 'DATETIME';
  /** ISO 8601. */
  readonly value: string;
  /** Another reading is as good: day and month can be exchanged, or the century is not told. */
  readonly ambiguous: boolean;
  /** What this text says about the order of day and month; null: nothing. */
  readonly order: Order | null;
}

export type Order = 'DAY_FIRST' | 'MONTH_FIRST';

export interface DateReader {
  /** @param order where it is known from elsewhere */
  read(text: string, order: Order | null): DateReading | null;
  /** What the language says. */
  readonly order: Order | null;
}

const maxChars = 60;
const two = (value: number): string => String(value).padStart(2, '0');

/** The date when there is such a day, from year 1 on. */
export function isoDate(year: number, month: number, day: number): string | null {
  if (year < 1 || year > 9999 || month < 1 || month > 12 || day < 1) return null;
  const date = new Date(Date.UTC(2000, month - 1, day));
  date.setUTCFullYear(year, month - 1, day);
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return null;
  return `${String(year).padStart(4, '0')}-${two(month)}-${two(day)}`;
}

/** @see https://pubs.opengroup.org/onlinepubs/9799919799/functions/strptime.html */
const century = (year: number): number => year + (year < 69 ? 2000 : 1900);

const timePattern =
  /^(?<h>\d{1,2}):(?<m>\d{2})(?::(?<s>\d{2})(?:[.,](?<f>\d{1,9}))?)?\s?(?<half>[AaPp]\.?[Mm]\.?)?(?<zone>Z|\s?[+-]\d{2}:?\d{2})?$/;

interface Time {
  readonly time: string;
  readonly zone: string;
}

function readTime(text: string): Time | null {
  const found = timePattern.exec(text.trim())?.groups;
  if (!found) return null;
  return timeOf(
    Number(found['h']),
    Number(found['m']),
    Number(found['s'] ?? '0'),
    found['half'],
    found['f'],
    found['zone'],
  );
}

function timeOf(given: number, m: number, s: number, half?: string, fraction?: string, zone?: string): Time | null {
  let h = given;
  if (half !== undefined) {
    if (h < 1 || h > 12) return null;
    h = (h % 12) + (/^p/i.test(half) ? 12 : 0);
  }
  if (h > 23 || m > 59 || s > 59) return null;
  const parts = (fraction ?? '').replace(/0+$/, '');
  const offset = (zone ?? '').trim().replace(/^([+-]\d{2})(\d{2})$/, '$1:$2');
  return { time: `${two(h)}:${two(m)}:${two(s)}${parts ? `.${parts}` : ''}`, zone: offset };
}

/** The offset of a time zone at a local time, as `+02:00`. A time that the zone leaves out is taken as after the gap. */
export function offsetAt(local: string, timeZone: string): string {
  const format = new Intl.DateTimeFormat('en-US', { timeZone, timeZoneName: 'longOffset' });
  const offset = (instant: number): string => {
    const name = format.formatToParts(instant).find(({ type }) => type === 'timeZoneName')?.value ?? 'GMT';
    return name === 'GMT' ? '+00:00' : name.slice(3, 9);
  };
  const minutes = (text: string): number =>
    (text.startsWith('-') ? -1 : 1) * (Number(text.slice(1, 3)) * 60 + Number(text.slice(4, 6)));
  const naive = Date.parse(`${local}Z`);
  const first = offset(naive - minutes(offset(naive)) * 60_000);
  return offset(naive - minutes(first) * 60_000);
}

const lower = (text: string): string => text.toLowerCase().replace(/\.$/, '');

function monthNames(locale: string | undefined): Map<string, number> {
  const names = new Map<string, number>();
  for (const language of new Set(['en', ...(locale === undefined ? [] : [locale])])) {
    for (const month of ['long', 'short'] as const) {
      for (const day of [{ day: 'numeric' as const }, {}]) {
        const format = new Intl.DateTimeFormat(language, { month, ...day, timeZone: 'UTC', calendar: 'gregory' });
        for (let index = 0; index < 12; index++) {
          const name = format.formatToParts(Date.UTC(2001, index, 15)).find(({ type }) => type === 'month')?.value;
          if (name !== undefined && /\p{L}/u.test(name)) names.set(lower(name), index + 1);
        }
      }
    }
  }
  return names.set('sept', 9);
}

function orderOf(locale: string | undefined): Order | null {
  if (locale === undefined) return null;
  const types = new Intl.DateTimeFormat(locale, { dateStyle: 'short', timeZone: 'UTC', calendar: 'gregory' })
    .formatToParts(0)
    .map(({ type }) => type);
  // A language that begins with the year says nothing about 03/04/2025.
  if (types.indexOf('year') < types.indexOf('month')) return null;
  return types.indexOf('day') < types.indexOf('month') ? 'DAY_FIRST' : 'MONTH_FIRST';
}

/** Letters of a pattern, with what they match. */
const fields: Readonly<Record<string, string>> = {
  yyyy: String.raw`(?<year>\d{4})`,
  yy: String.raw`(?<short>\d{2})`,
  MMMM: String.raw`(?<name>\p{L}+\.?)`,
  MMM: String.raw`(?<name>\p{L}+\.?)`,
  MM: String.raw`(?<month>\d{2})`,
  M: String.raw`(?<month>\d{1,2})`,
  dd: String.raw`(?<day>\d{2})`,
  d: String.raw`(?<day>\d{1,2})`,
  HH: String.raw`(?<hour>\d{2})`,
  H: String.raw`(?<hour>\d{1,2})`,
  hh: String.raw`(?<hour>\d{2})`,
  h: String.raw`(?<hour>\d{1,2})`,
  mm: String.raw`(?<minute>\d{2})`,
  ss: String.raw`(?<second>\d{2})`,
  a: String.raw`(?<half>[AaPp]\.?[Mm]\.?)`,
};

/** A pattern as a regular expression; null when it names a field twice, and so can mean nothing. */
function compile(pattern: string): RegExp | null {
  const source = pattern.replaceAll(/yyyy|yy|MMMM|MMM|MM|M|dd|d|HH|H|hh|h|mm|ss|a|'[^']*'|[^\p{L}]|\p{L}/gu, (part) => {
    const found = fields[part];
    if (found !== undefined) return found;
    return (part.length > 1 ? part.slice(1, -1) : part).replaceAll(/[\\^$.*+?()[\]{}|/-]/g, String.raw`\$&`);
  });
  try {
    return new RegExp(`^${source}$`, 'u');
  } catch {
    return null;
  }
}

/** Whether a pattern of `dateFormats` can be used: it has a day, a month and a year, each once. */
export function isDateFormat(pattern: string): boolean {
  const source = compile(pattern)?.source;
  return (
    source !== undefined && /<day>/.test(source) && /<(?:month|name)>/.test(source) && /<(?:year|short)>/.test(source)
  );
}

/** What reads dates of one definition. Formats come first, then what is common. */
export function dateReader(options: {
  readonly locale?: string | undefined;
  readonly formats?: readonly string[] | undefined;
  readonly timeZone?: string | undefined;
}): DateReader {
  const names = monthNames(options.locale);
  const patterns = (options.formats ?? []).map(compile).filter((one) => one !== null);
  const localeOrder = orderOf(options.locale);
  const { timeZone } = options;

  const result = (
    date: string | null,
    time: Time | null,
    ambiguous: boolean,
    order: Order | null = null,
  ): DateReading | null => {
    if (date === null) return null;
    if (!time) return { type: 'DATE', value: date, ambiguous, order };
    const local = `${date}T${time.time}`;
    const zone = time.zone || (timeZone === undefined ? '' : offsetAt(local, timeZone));
    return { type: 'DATETIME', value: `${local}${zone}`, ambiguous, order };
  };

  const byPattern = (text: string): DateReading | null => {
    for (const pattern of patterns) {
      const found = pattern.exec(text)?.groups;
      if (!found) continue;
      const year = found['year'] === undefined ? century(Number(found['short'])) : Number(found['year']);
      const month = found['name'] === undefined ? Number(found['month']) : names.get(lower(found['name']));
      const time =
        found['hour'] === undefined
          ? null
          : timeOf(
              Number(found['hour']),
              Number(found['minute'] ?? '0'),
              Number(found['second'] ?? '0'),
              found['half'],
            );
      if (found['hour'] !== undefined && !time) continue;
      const reading = result(isoDate(year, month ?? 0, Number(found['day'])), time, false);
      if (reading) return reading;
    }
    return null;
  };

  return {
    order: localeOrder,
    read(given, known) {
      const text = given.trim();
      if (text.length > maxChars || text.length < 6 || !/\d/.test(text)) return null;
      const told = byPattern(text);
      if (told) return told;
      // The date, and what follows it as a time.
      const split = /^(.*?)(?:(?:T|,?\s+)(\d{1,2}:\d{2}.*))?$/s.exec(text);
      const [, date = '', clock] = split ?? [];
      const time = clock === undefined ? null : readTime(clock);
      if (clock !== undefined && !time) return null;

      const iso = /^(\d{4})([-/.])(\d{1,2})\2(\d{1,2})$/.exec(date);
      if (iso) return result(isoDate(Number(iso[1]), Number(iso[3]), Number(iso[4])), time, false);

      const numeric = /^(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})$/.exec(date);
      if (numeric) {
        const [first, second] = [Number(numeric[1]), Number(numeric[3])];
        const short = numeric[4]?.length === 2;
        // Three pairs of digits with dots or dashes are a version or a code as often as a date.
        const year = short ? century(Number(numeric[4])) : Number(numeric[4]);
        const dayFirst = (): string | null => isoDate(year, second, first);
        const monthFirst = (): string | null => isoDate(year, first, second);
        const said = localeOrder ?? known;
        if (numeric[2] === '.' && said !== 'MONTH_FIRST') return result(dayFirst(), time, short);
        if (first > 12) return said === 'MONTH_FIRST' ? null : result(dayFirst(), time, short, 'DAY_FIRST');
        if (second > 12) return said === 'DAY_FIRST' ? null : result(monthFirst(), time, short, 'MONTH_FIRST');
        if (said) return result(said === 'DAY_FIRST' ? dayFirst() : monthFirst(), time, short);
        return result(monthFirst(), time, short || first !== second);
      }

      const named =
        /^(?<day>\d{1,2})(?:\.|st|nd|rd|th)?[\s-]+(?:de\s+)?(?<name>\p{L}{3,}\.?)[\s,-]+(?:de\s+)?(?<year>\d{4}|\d{2})$/u.exec(
          date,
        ) ??
        /^(?<name>\p{L}{3,}\.?)\s+(?<day>\d{1,2})(?:st|nd|rd|th)?,?\s+(?<year>\d{4})$/u.exec(date) ??
        /^(?<year>\d{4})[\s-](?<name>\p{L}{3,}\.?)[\s-](?<day>\d{1,2})$/u.exec(date);
      if (!named?.groups) return null;
      const month = names.get(lower(named.groups['name'] ?? ''));
      if (month === undefined) return null;
      const short = named.groups['year']?.length === 2;
      const year = short ? century(Number(named.groups['year'])) : Number(named.groups['year']);
      return result(isoDate(year, month, Number(named.groups['day'])), time, short);
    },
  };
}
