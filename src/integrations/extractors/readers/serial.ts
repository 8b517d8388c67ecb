import { isoDate } from '../values/date.ts';
import { plain } from '../values/number.ts';
import type { RawCell } from '../raw.ts';

/** What a number format makes of a number. */
export type Kind = 'NUMBER' | 'DATE' | 'DATETIME' | 'TIME';

/** Formats that have a number only. @see ECMA-376 part 1, 18.8.30, with those of East Asia */
export function kindOfId(id: number): Kind {
  if ((id >= 14 && id <= 17) || (id >= 27 && id <= 31) || id === 36 || (id >= 50 && id <= 54) || (id >= 57 && id <= 58))
    return 'DATE';
  if ((id >= 18 && id <= 21) || (id >= 32 && id <= 35) || id === 45 || id === 47 || id === 55 || id === 56)
    return 'TIME';
  return id === 22 ? 'DATETIME' : 'NUMBER';
}

/** What a format's code makes of a positive number: its first section decides. `[h]` counts hours, and is no time of day. */
export function kindOfCode(code: string): Kind {
  const bare = code
    .slice(0, 255)
    .replaceAll(/"[^"]*"|\\.|_.|\*./gs, '')
    .replaceAll(/\[(?:h+|m+|s+)\]/gi, '\u0000')
    .replaceAll(/\[[^\]]*\]/g, '');
  const section = (bare.split(';')[0] ?? '').replaceAll(/general/gi, '');
  if (section.includes('\u0000') || /[0#?]/.test(section.replaceAll(/s\.0+/gi, 's'))) return 'NUMBER';
  const clock = /[hs]/i.test(section);
  const date = /[yd]/i.test(section) || (/m/i.test(section) && !clock);
  if (date) return clock ? 'DATETIME' : 'DATE';
  return clock ? 'TIME' : 'NUMBER';
}

const dayMs = 86_400_000;

/** Days of a spreadsheet as date and time; null: there is no such day, as 29 February 1900, which one of the two has. */
export function momentOf(serial: number, epoch1904: boolean): { date: string; time: string } | null {
  const ms = Math.round(serial * dayMs);
  const day = Math.floor(ms / dayMs);
  const rest = ms - day * dayMs;
  if (day < (epoch1904 ? 0 : 1) || day > 2_958_465 || (!epoch1904 && day === 60)) return null;
  const first = epoch1904 ? Date.UTC(1904, 0, 1) : Date.UTC(1899, 11, day < 60 ? 31 : 30);
  const at = new Date(first + day * dayMs);
  const date = isoDate(at.getUTCFullYear(), at.getUTCMonth() + 1, at.getUTCDate());
  if (date === null) return null;
  return { date, time: clockOf(rest) };
}

/** Milliseconds of a day as `12:30:00` or `12:30:00.25`. */
function clockOf(ms: number): string {
  const text = new Date(ms).toISOString().slice(11, 23);
  return text.slice(0, 8) + text.slice(8).replace(/\.?0+$/, '');
}

/** A number of a cell with what its format makes of it. The text of a number is the number, without its format. */
export function numberCell(value: number, kind: Kind, epoch1904: boolean): RawCell {
  if (kind !== 'NUMBER' && value >= 0) {
    if (kind === 'TIME' || value < 1) {
      const text = clockOf(Math.round((value % 1) * dayMs) % dayMs);
      if (value < 1) return { text, native: { type: 'TEXT', value: text } };
    }
    const moment = momentOf(value, epoch1904);
    if (moment) {
      const midnight = moment.time === '00:00:00';
      // What is shown without a time can have one all the same.
      const type = kind === 'DATE' && midnight ? 'DATE' : 'DATETIME';
      const iso = type === 'DATE' ? moment.date : `${moment.date}T${moment.time}`;
      return { text: type === 'DATE' ? iso : iso.replace('T', ' '), native: { type, value: iso } };
    }
  }
  const text = plain(value);
  return Number.isSafeInteger(value)
    ? { text, native: { type: 'INTEGER', value } }
    : { text, native: { type: 'DECIMAL', value: text } };
}
