import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  cellNotes,
  columnTypes,
  definitionSchema,
  type Cell,
  type DefinitionInput,
} from '../../../src/integrations/extractors/extractor.ts';
import { pack, unpack, type Packed } from '../../../src/integrations/extractors/packing.ts';
import { columnLetters } from '../../../src/integrations/extractors/raw.ts';
import { readBoolean } from '../../../src/integrations/extractors/values/boolean.ts';
import { dateReader, isDateFormat, offsetAt } from '../../../src/integrations/extractors/values/date.ts';
import { cellOf, Interpreter, noEvidence } from '../../../src/integrations/extractors/values/interpret.ts';
import { decimalOf, plain, readNumber } from '../../../src/integrations/extractors/values/number.ts';
import { kindOfCode, momentOf } from '../../../src/integrations/extractors/readers/serial.ts';
import { parsePages } from '../../../src/integrations/extractors/pages.ts';

const seed = 20_260_705;

describe('numbers', () => {
  test.each([
    ['1.234,56', ',', '1234.56'],
    ['1,234.56', '.', '1234.56'],
    ['(1,234.50)', '.', '-1234.50'],
    ['1 234 567,5', ',', '1234567.5'],
    ["1'234.50", '.', '1234.50'],
    ['12,34,567.00', '.', '1234567.00'],
    ['12 %', null, '0.12'],
    ['100%', null, '1'],
    ['€ 5,00', ',', '5.00'],
    ['1.50 USD', '.', '1.50'],
    ['CHF 7', null, '7'],
    ['−3', null, '-3'],
    ['5.00-', '.', '-5.00'],
    ['-0', null, '0'],
    ['.5', '.', '0.5'],
    ['1,5', null, '1.5'],
    ['1.234.567', null, '1234567'],
    ['12345678901234567890', null, '12345678901234567890'],
  ] as const)('%s with the separator %s is %s', (text, decimal, value) => {
    expect(readNumber(text, decimal)).toMatchObject({ value, ambiguous: false });
  });

  test.each([
    '007',
    '1.2.3',
    '192.168.0.1',
    '1,23,4',
    '1e5',
    '--5',
    '5-5',
    '',
    '-',
    'EUR',
    '1.234,56,7',
    '٣',
    '1 23',
    'ABC 5',
    '12%%',
  ])('%j is none', (text) => expect(readNumber(text, null)).toBeNull());

  test('one separator before three digits is ambiguous, and a locale or a neighbour decides', () => {
    expect(readNumber('1,234', null)).toMatchObject({ value: '1234', ambiguous: true });
    expect(readNumber('1.234', null)).toMatchObject({ value: '1.234', ambiguous: true });
    expect(readNumber('1.234', ',')).toMatchObject({ value: '1234', ambiguous: false });
    expect(readNumber('1,234', ',')).toMatchObject({ value: '1.234', ambiguous: false });
    expect(readNumber('1,234.5', ',')).toBeNull();
  });

  test('what a language writes is read back', () => {
    const digits = fc.integer({ min: -999_999_999, max: 999_999_999 });
    for (const locale of ['en-US', 'de-DE', 'fr-FR', 'de-CH', 'en-IN', 'es-ES', 'pt-BR', 'sv-SE']) {
      const format = new Intl.NumberFormat(locale, { minimumFractionDigits: 2 });
      fc.assert(
        fc.property(digits, (cents) => {
          const read = readNumber(format.format(cents / 100), decimalOf(locale));
          expect(read).toMatchObject({ ambiguous: false });
          expect(Number(read?.value)).toBe(cents / 100);
        }),
        { seed, numRuns: 200 },
      );
    }
  });

  test('a number of a spreadsheet is written without an exponent, and is the same number', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        const text = plain(value);
        expect(text).toMatch(/^-?\d+(\.\d+)?$/);
        expect(Number(text)).toBe(value === 0 ? 0 : value);
      }),
      { seed, numRuns: 500 },
    );
  });
});

describe('dates', () => {
  const read = (text: string, locale?: string, formats?: string[], timeZone?: string) =>
    dateReader({ locale, formats, timeZone }).read(text, null);

  test.each([
    ['2025-03-31', undefined, 'DATE', '2025-03-31'],
    ['2025-03-31T12:30', undefined, 'DATETIME', '2025-03-31T12:30:00'],
    ['2025-03-31 12:30:05.250Z', undefined, 'DATETIME', '2025-03-31T12:30:05.25Z'],
    ['2025-03-31 12:30 +0200', undefined, 'DATETIME', '2025-03-31T12:30:00+02:00'],
    ['31.03.2025', undefined, 'DATE', '2025-03-31'],
    ['31/03/2025', undefined, 'DATE', '2025-03-31'],
    ['03/31/2025 1:05 PM', undefined, 'DATETIME', '2025-03-31T13:05:00'],
    ['03/04/2025', 'en-US', 'DATE', '2025-03-04'],
    ['03/04/2025', 'en-GB', 'DATE', '2025-04-03'],
    ['31 March 2025', undefined, 'DATE', '2025-03-31'],
    ['Mar 31, 2025', undefined, 'DATE', '2025-03-31'],
    ['31. März 2025', 'de', 'DATE', '2025-03-31'],
    ['31 de marzo de 2025', 'es', 'DATE', '2025-03-31'],
    ['29.02.2024', undefined, 'DATE', '2024-02-29'],
  ] as const)('%s in %s', (text, locale, type, value) => {
    expect(read(text, locale)).toMatchObject({ type, value, ambiguous: false });
  });

  test.each([
    '29.02.2025',
    '31.04.2025',
    '2025-13-01',
    '1.2.3',
    '99/99/2025',
    '2025-03-31 25:00',
    'March',
    '31 Foo 2025',
    '',
  ])('%j is none', (text) => expect(read(text)).toBeNull());

  test('day and month that can be exchanged are told as ambiguous', () => {
    expect(read('03/04/2025')).toMatchObject({ value: '2025-03-04', ambiguous: true });
    expect(read('04/04/2025')).toMatchObject({ value: '2025-04-04', ambiguous: false });
    expect(read('31.03.25')).toMatchObject({ value: '2025-03-31', ambiguous: true });
    expect(read('31/03/2025', 'en-US')).toBeNull();
  });

  test('formats of the definition come first, and are certain', () => {
    expect(read('03/04/25', undefined, ['dd/MM/yy'])).toMatchObject({ value: '2025-04-03', ambiguous: false });
    expect(read('20250331', undefined, ['yyyyMMdd'])).toMatchObject({ value: '2025-03-31' });
    expect(read('31 März 2025 um 07:05', 'de', ["d MMMM yyyy 'um' HH:mm"])).toMatchObject({
      value: '2025-03-31T07:05:00',
    });
    expect(isDateFormat('dd.MM.yyyy')).toBe(true);
    expect(isDateFormat('dd.dd.yyyy')).toBe(false);
    expect(isDateFormat('HH:mm')).toBe(false);
  });

  test('a time without an offset is of the time zone', () => {
    expect(read('2025-03-31 12:00', undefined, undefined, 'Europe/Zurich')?.value).toBe('2025-03-31T12:00:00+02:00');
    expect(read('2025-01-31 12:00', undefined, undefined, 'Europe/Zurich')?.value).toBe('2025-01-31T12:00:00+01:00');
    expect(offsetAt('2025-07-01T00:00:00', 'Asia/Kolkata')).toBe('+05:30');
    expect(offsetAt('2025-07-01T00:00:00', 'UTC')).toBe('+00:00');
  });

  test('every day that a language writes is read back', () => {
    for (const locale of ['en-US', 'en-GB', 'de-DE', 'fr-FR', 'es-ES']) {
      const reader = dateReader({ locale });
      const [long, short] = (['long', 'short'] as const).map(
        (dateStyle) => new Intl.DateTimeFormat(locale, { dateStyle, timeZone: 'UTC' }),
      );
      fc.assert(
        fc.property(fc.integer({ min: 0, max: 18_000 }), (days) => {
          const day = new Date(days * 86_400_000);
          const iso = day.toISOString().slice(0, 10);
          for (const format of [long, short]) expect(reader.read(format?.format(day) ?? '', null)?.value).toBe(iso);
        }),
        { seed, numRuns: 100 },
      );
    }
  });
});

test('booleans are words of a small set; digits and letters only where the column is said to be of them', () => {
  expect(['true', 'Yes', 'JA', 'oui', 'sí'].map((text) => readBoolean(text))).toEqual([true, true, true, true, true]);
  expect(['false', 'no', 'nein', 'non'].map((text) => readBoolean(text))).toEqual([false, false, false, false]);
  expect(['1', 'y', 'x', '0', 'n', 'maybe'].map((text) => readBoolean(text))).toEqual(Array(6).fill(null));
  expect(['1', 'y', 'x', '0', 'n', 'maybe'].map((text) => readBoolean(text, true))).toEqual([
    true,
    true,
    true,
    false,
    false,
    null,
  ]);
});

test('days of a spreadsheet: both epochs, and the day that never was', () => {
  expect(momentOf(1, false)?.date).toBe('1900-01-01');
  expect(momentOf(59, false)?.date).toBe('1900-02-28');
  expect(momentOf(60, false)).toBeNull();
  expect(momentOf(61, false)?.date).toBe('1900-03-01');
  expect(momentOf(45_351.520_833_333_336, false)).toEqual({ date: '2024-02-29', time: '12:30:00' });
  expect(momentOf(0, true)?.date).toBe('1904-01-01');
  expect(momentOf(43_889, true)?.date).toBe('2024-02-29');
  expect(momentOf(3_000_000, false)).toBeNull();
});

test('number formats that are dates', () => {
  expect(['General', '0.00', '#,##0 "days"', '[Red]0', '[h]:mm', '0.00E+00', '@'].map(kindOfCode)).toEqual(
    Array(7).fill('NUMBER'),
  );
  expect(['yyyy-mm-dd', 'dd/mm/yy;@', '[$-407]d. mmmm yyyy', 'mmm'].map(kindOfCode)).toEqual(Array(4).fill('DATE'));
  expect(['d.m.yy h:mm', 'yyyy-mm-dd hh:mm:ss.000'].map(kindOfCode)).toEqual(Array(2).fill('DATETIME'));
  expect(['h:mm AM/PM', 'mm:ss.0'].map(kindOfCode)).toEqual(Array(2).fill('TIME'));
});

test('lists of pages', () => {
  expect(parsePages('7, 1-3')).toEqual([
    [1, 3],
    [7, 7],
  ]);
  expect(['', '0', '3-1', 'a', '1,,2', '1-', '-2'].filter((text) => parsePages(text) !== null)).toEqual([]);
});

describe('confidence', () => {
  const at = { kind: 'LINE', line: 1, column: 1 } as const;
  const cell = (
    text: string,
    type: 'TEXT' | 'INTEGER' | 'DECIMAL' | 'DATE',
    more: { place?: number; definition?: DefinitionInput; required?: boolean } = {},
  ) =>
    cellOf(
      new Interpreter(definitionSchema.parse(more.definition ?? {})),
      { text, ...(more.place === undefined ? {} : { place: more.place }) },
      { type, declared: true, required: more.required ?? false, evidence: noEvidence },
      at,
    );

  test('is certain, ambiguous or not fitting, times how sure the place is', () => {
    expect(cell('1.50', 'DECIMAL')).toEqual({
      text: '1.50',
      value: '1.50',
      type: 'DECIMAL',
      confidence: 1,
      citation: at,
    });
    expect(cell('1,234', 'INTEGER')).toMatchObject({ value: 1234, confidence: 0.6, note: 'AMBIGUOUS_NUMBER' });
    expect(cell('1,234', 'INTEGER', { definition: { locale: 'en' } })).toMatchObject({ value: 1234, confidence: 1 });
    expect(cell('03/04/2025', 'DATE')).toMatchObject({ confidence: 0.6, note: 'AMBIGUOUS_DATE' });
    expect(cell('abc', 'INTEGER')).toMatchObject({
      value: 'abc',
      type: 'TEXT',
      confidence: 0.4,
      note: 'TYPE_MISMATCH',
    });
    expect(cell('abc', 'TEXT', { place: 0.5 })).toMatchObject({ confidence: 0.5, note: 'UNCERTAIN_PLACE' });
    expect(cell('', 'TEXT')).toMatchObject({ value: null, type: 'EMPTY', confidence: 1 });
    expect(cell('', 'TEXT', { required: true })).toMatchObject({ confidence: 0.5, note: 'MISSING' });
  });
});

test('a definition is strict, and says what is wrong', () => {
  const wrong: unknown[] = [
    { locale: 'not a tag!' },
    { timeZone: 'Mars/Olympus' },
    { encoding: 'nonsense' },
    { pages: '3-1' },
    { headerRows: 11 },
    { columns: [{ name: 'a' }, { name: 'a' }] },
    { delimiter: '"' },
    { version: 2 },
    { surprise: true },
    { areas: [{ page: 1, box: [0, 0, 0, 5] }] },
  ];
  expect(wrong.filter((one) => definitionSchema.safeParse(one).success)).toEqual([]);
  expect(definitionSchema.parse({})).toEqual({ version: 1 });
});

test('rows are the same on the other side of a process', () => {
  const text = fc.oneof(fc.string(), fc.integer().map(String), fc.constantFrom('', '-0', '007', '1.50', '2025-01-31'));
  const value = fc.oneof(text, fc.maxSafeInteger(), fc.boolean(), fc.constant(null));
  const citation = (row: number, column: number) =>
    fc.oneof(
      fc.constant({ kind: 'LINE' as const, line: row + 1, column: column + 1 }),
      fc.constant({ kind: 'SHEET' as const, sheet: 'S', ref: `${columnLetters(column)}${row + 7}` }),
      fc.constant({ kind: 'PAGE' as const, page: 2, box: [1, 2, 3, 4.5] as const }),
    );
  const cell = (row: number, column: number): fc.Arbitrary<Cell> =>
    fc
      .record({
        text,
        same: fc.boolean(),
        value,
        type: fc.constantFrom('EMPTY' as const, ...columnTypes),
        confidence: fc.oneof(fc.constant(1), fc.double({ min: 0, max: 1, noNaN: true }).map((one) => Math.round(one * 1000) / 1000)), // prettier-ignore
        citation: citation(row, column),
        note: fc.option(fc.constantFrom(...cellNotes), { nil: undefined, freq: 4 }),
      })
      .map(({ same, note, ...one }) => ({ ...one, value: same ? one.text : one.value, ...(note ? { note } : {}) }));
  const rows = fc.tuple(fc.nat(3), fc.nat(3)).chain(
    ([height, width]) =>
    fc.tuple(...Array.from({ length: height }, (_, row) => fc.tuple(...Array.from({ length: width }, (__, column) => cell(row, column))))), // prettier-ignore
  );
  fc.assert(
    fc.property(rows, (some) => {
      const item = { type: 'rows' as const, table: 1, from: 500, rows: some };
      expect(unpack(JSON.parse(JSON.stringify(pack(item))) as Packed)).toEqual(item);
    }),
    { seed },
  );
});
