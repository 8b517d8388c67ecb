import { z } from 'zod';
import type { ExtractionErrorCode, Limits } from './errors.ts';
import { parsePages } from './pages.ts';
import { isDateFormat } from './values/date.ts';

export * from './errors.ts';
export { parsePages } from './pages.ts';

// What extraction is for those who use it: no reader, no process. What confidence means: docs/documents-extraction.md.

export const formats = ['CSV', 'TSV', 'XLSX', 'XLS', 'PDF', 'DOCX', 'HTML'] as const;
export type Format = (typeof formats)[number];

export const columnTypes = ['TEXT', 'INTEGER', 'DECIMAL', 'BOOLEAN', 'DATE', 'DATETIME'] as const;
export type ColumnType = (typeof columnTypes)[number];

/** In points from the page's top left, y downwards, the page turned as a reader sees it. */
export type Box = readonly [x: number, y: number, width: number, height: number];

/** Where a cell was. Counted from 1. */
export type Citation =
  | { readonly kind: 'SHEET'; readonly sheet: string; readonly ref: string }
  | { readonly kind: 'PAGE'; readonly page: number; readonly box: Box }
  /** The line of the file on which the record begins, and the field in it. */
  | { readonly kind: 'LINE'; readonly line: number; readonly column: number }
  /** For instance `table 2, row 3, cell 1`. */
  | { readonly kind: 'ELEMENT'; readonly path: string };

/** Why a cell is less than certain, or how it came to its value. */
export const cellNotes = [
  'AMBIGUOUS_NUMBER',
  'AMBIGUOUS_DATE',
  'TYPE_MISMATCH',
  /** Covered by a merged cell, whose value it repeats. */
  'MERGED',
  /** The file has a formula and not its result: nothing is computed here. */
  'FORMULA_WITHOUT_VALUE',
  /** A spreadsheet's error value, as #N/A. */
  'ERROR_VALUE',
  /** A required column has nothing here. */
  'MISSING',
  /** Read off the page's geometry with some doubt. */
  'UNCERTAIN_PLACE',
] as const;
export type CellNote = (typeof cellNotes)[number];

export interface Cell {
  /** As it is shown in the document. */
  readonly text: string;
  /**
   * By type: TEXT as it is, INTEGER a safe integer, DECIMAL canonical text as `-1234.5`, BOOLEAN, DATE `2025-03-31`,
   * DATETIME `2025-03-31T12:00:00`, with an offset or Z when the document says one or the definition a time zone.
   */
  readonly value: string | number | boolean | null;
  readonly type: ColumnType | 'EMPTY';
  /** From 0 to 1. */
  readonly confidence: number;
  readonly citation: Citation;
  readonly note?: CellNote;
}

export interface Column {
  readonly name: string;
  readonly type: ColumnType;
}

const canonicalLocale = (text: string): boolean => {
  try {
    return Intl.getCanonicalLocales(text).length === 1;
  } catch {
    return false; // RangeError: it is not one
  }
};

const knownTimeZone = (text: string): boolean => {
  try {
    return Boolean(new Intl.DateTimeFormat('en', { timeZone: text }));
  } catch {
    return false; // RangeError: it is not one
  }
};

const knownEncoding = (text: string): boolean => {
  try {
    return Boolean(new TextDecoder(text));
  } catch {
    return false; // RangeError: it is not one
  }
};

const coordinate = z.number().min(0).max(20_000);

/** An extraction configuration. What is left out is found out from the document. */
export const definitionSchema = z.strictObject({
  version: z.literal(1).default(1),
  /** Names, or numbers from 1 as text. Default: all that are not hidden. */
  sheets: z.array(z.string().min(1).max(100)).min(1).max(100).optional(),
  /** As `1-3,7`. Default: all. */
  pages: z
    .string()
    .max(200)
    .refine((text) => parsePages(text) !== null, 'It is not a list of pages as 1-3,7.')
    .optional(),
  headerRows: z.int().min(0).max(10).optional(),
  /** By their order. Columns beyond them are named and typed by the document. */
  columns: z
    .array(
      z.strictObject({
        name: z.string().trim().min(1).max(200),
        type: z.enum(columnTypes).optional(),
        required: z.boolean().optional(),
      }),
    )
    .min(1)
    .max(1000)
    .refine((columns) => new Set(columns.map(({ name }) => name)).size === columns.length, 'A name is there twice.')
    .optional(),
  /** BCP 47: decides the decimal separator and the order of day and month. */
  locale: z.string().max(35).refine(canonicalLocale, 'It is not a BCP 47 language tag.').optional(),
  /** Unicode patterns of `yyyy`, `yy`, `MMMM`, `MMM`, `MM`, `M`, `dd`, `d`, `HH`, `H`, `hh`, `h`, `mm`, `ss`, `a`. */
  dateFormats: z
    .array(z.string().min(1).max(40).refine(isDateFormat, 'It has not a day, a month and a year, each once.'))
    .max(20)
    .optional(),
  /** IANA name: what a date with a time and no offset is in. */
  timeZone: z.string().max(60).refine(knownTimeZone, 'It is not a time zone.').optional(),
  /** A label of the Encoding standard; CSV, TSV and HTML. */
  encoding: z.string().max(40).refine(knownEncoding, 'It is not an encoding.').optional(),
  delimiter: z
    .string()
    .length(1)
    .regex(/[^\r\n"]/)
    .optional(),
  /** Empty: there is no quoting. */
  quote: z
    .string()
    .max(1)
    .regex(/^[^\r\n]?$/)
    .optional(),
  /** Of a PDF: tables are looked for there only, one in each. */
  areas: z
    .array(
      z.strictObject({
        page: z.int().min(1).max(1_000_000),
        box: z.tuple([coordinate, coordinate, coordinate.positive(), coordinate.positive()]),
      }),
    )
    .min(1)
    .max(200)
    .optional(),
  /** A cell below it wants a review. */
  minConfidence: z.number().min(0).max(1).optional(),
  extractor: z.enum(['BUILT_IN', 'HTTP', 'MODEL']).optional(),
});
export type Definition = z.infer<typeof definitionSchema>;
/** As it is written: `version` may be left out. */
export type DefinitionInput = z.input<typeof definitionSchema>;

export interface Progress {
  readonly step: 'detect' | 'parse' | 'extract';
  readonly unit: 'ROWS' | 'PAGES';
  readonly done: number;
  /** Null: not known before the end. */
  readonly total: number | null;
}

/** What comes out: of each table its head, its rows in order, its end. Tables do not overlap. */
export type Extracted =
  | {
      readonly type: 'table';
      /** From 0. */
      readonly index: number;
      readonly name: string;
      readonly page?: number;
      readonly sheet?: string;
      readonly box?: Box;
      /** Types as the first rows say. */
      readonly columns: readonly Column[];
      readonly headerRows: number;
      /** Of a PDF: it has lines. */
      readonly ruled?: boolean;
      /** Index of the table that this one goes on with, on the page after it. */
      readonly continuedFrom?: number;
    }
  /** `from`: of the first of them, from 0. */
  | {
      readonly type: 'rows';
      readonly table: number;
      readonly from: number;
      readonly rows: readonly (readonly Cell[])[];
    }
  /** Types and number of columns as all rows say: they are wider than at the beginning at most. */
  | { readonly type: 'tableEnd'; readonly table: number; readonly rows: number; readonly columns: readonly Column[] }
  | {
      readonly type: 'warning';
      readonly code: string;
      readonly message: string;
      readonly page?: number;
      readonly sheet?: string;
    };

export interface Detected {
  /** Null: none that is read here. */
  readonly format: Format | null;
  /** Media type, `application/octet-stream` when nothing is known. */
  readonly contentType: string;
  /** It cannot be read without a password. */
  readonly encrypted: boolean;
  /** Why it cannot be read. */
  readonly problem?: ExtractionErrorCode;
}

export interface ExtractRequest {
  /** Path of a local file. */
  readonly file: string;
  readonly format: Format;
  readonly definition: Definition;
  readonly limits?: Partial<Limits>;
  /** The child process is gone within a second of it. */
  readonly signal: AbortSignal;
  /** At most so many rows of each table; the rest is not read where it need not be. */
  readonly sample?: { readonly rows: number };
}

/** One file, read by one child process, which is started when it is first needed, and anew after a failure. */
export interface FileReader {
  /**
   * By content, never by name. Reads as little as it can.
   * @throws the signal's reason, ExtractionTimedOut, ExtractionOutOfMemory, ExtractionCrashed
   */
  detect(signal: AbortSignal): Promise<Detected>;
  /**
   * Batches are small, and the child waits while the consumer does. To stop early, leave the loop.
   * @throws the signal's reason, or an ExtractionError
   */
  extract(request: Omit<ExtractRequest, 'file' | 'limits'>): AsyncIterable<Extracted | Progress>;
  /** Ends the child process. */
  close(): Promise<void>;
}

export interface Extractors {
  /** @param file path of a local file, asked for when it is needed */
  open(file: () => Promise<string>, limits?: Partial<Limits>): FileReader;
  /** As `FileReader.detect`, once. */
  detect(file: string, signal: AbortSignal): Promise<Detected>;
  /** As `FileReader.extract`, once. */
  extract(request: ExtractRequest): AsyncIterable<Extracted | Progress>;
  /** Ends all child processes. */
  close(): Promise<void>;
}
