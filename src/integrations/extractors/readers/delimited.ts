import { pipeline, Readable } from 'node:stream';
import { CsvError, parse } from 'csv-parse';
import { DocumentMalformed, DocumentBeyondLimits } from '../errors.ts';
import type { Raw, Source } from '../raw.ts';
import { dialectOf } from './dialect.ts';
import { encodingOf, textOf } from './text.ts';

const sampleChars = 65_536;
const leastRecordChars = 8_388_608;

/** CSV and TSV. @see https://www.rfc-editor.org/rfc/rfc4180 */
export async function* readDelimited(source: Source): AsyncGenerator<Raw> {
  const { definition, limits } = source;
  const format = source.format === 'TSV' ? 'TSV' : 'CSV';
  const encoding = await encodingOf(source, definition.encoding);
  if (encoding.guessed)
    yield {
      type: 'warning',
      code: 'ENCODING_GUESSED',
      message: `The text does not say what it is encoded in. It was read as ${encoding.label}.`,
    };
  // The beginning tells how it is divided; it is read again with the rest.
  const sample = await beginning(source, encoding.label);
  const dialect = dialectOf(sample, { ...definition, format, cut: sample.length >= sampleChars });
  let replaced = false;
  const watched = async function* (): AsyncGenerator<string> {
    for await (const text of textOf(source, encoding.label)) {
      replaced ||= !encoding.sound && text.includes('\uFFFD');
      yield text;
    }
  };
  const parser = parse({
    delimiter: dialect.delimiter,
    quote: dialect.quote === '' ? false : dialect.quote,
    escape: dialect.quote === '' ? false : dialect.quote,
    record_delimiter: [...dialect.lineEnds],
    // Beside RFC 4180: a quote inside of a field that does not begin with one is text, records may differ in length.
    relax_quotes: true,
    relax_column_count: true,
    skip_empty_lines: false,
    max_record_size: Math.max(leastRecordChars, limits.maxCellChars * 4),
  });
  // What fails is told by the iteration below.
  pipeline(Readable.from(watched()), parser, () => undefined);
  yield { type: 'table', name: format };
  let line = 1;
  let rows = 0;
  try {
    for await (const record of parser as AsyncIterable<string[]>) {
      const at = line;
      line += 1 + breaksIn(record, dialect.lineEnds);
      // A line with nothing on it is no record.
      if (record.length === 1 && record[0] === '') continue;
      if (rows++ >= source.maxRows) break;
      yield {
        type: 'row',
        cells: record.map((text) => ({ text })),
        cite: (column) => ({ kind: 'LINE', line: at, column: column + 1 }),
      };
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    if (error.code === 'CSV_MAX_RECORD_SIZE') throw new DocumentBeyondLimits('maxCellChars', limits.maxCellChars);
    const where =
      error.code === 'CSV_QUOTE_NOT_CLOSED' ? 'A quote is opened and not closed' : 'A field is not as it should be';
    throw new DocumentMalformed(`${where}, in the record of line ${line}.`);
  } finally {
    parser.destroy();
  }
  yield { type: 'end' };
  if (replaced)
    yield {
      type: 'warning',
      code: 'CHARACTERS_REPLACED',
      message: `Bytes that are nothing in ${encoding.label} were replaced by U+FFFD.`,
    };
}

/** Lines that end inside of the record's fields. */
function breaksIn(record: readonly string[], lineEnds: readonly string[]): number {
  const end = lineEnds.at(-1) ?? '\n'; // the last character of each of them
  let count = 0;
  for (const field of record) for (let at = field.indexOf(end); at >= 0; at = field.indexOf(end, at + 1)) count += 1;
  return count;
}

async function beginning(source: Source, label: string): Promise<string> {
  for await (const text of textOf(source, label)) return text.slice(0, sampleChars);
  return '';
}
