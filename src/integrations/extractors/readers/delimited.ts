import { pipeline, Readable } from 'node:stream';
import { CsvError, parse } from 'csv-parse';
import { DocumentMalformed, DocumentTooLarge } from '../errors.ts';
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
  const dialect = dialectOf(await beginning(source, encoding.label), { ...definition, format });
  let replaced = false;
  const watched = async function* (): AsyncGenerator<string> {
    for await (const text of textOf(source, encoding.label)) {
      replaced ||= text.includes('\uFFFD');
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
    info: true,
    max_record_size: Math.max(leastRecordChars, limits.maxCellChars * 4),
  });
  // What fails is told by the iteration below.
  pipeline(Readable.from(watched()), parser, () => undefined);
  yield { type: 'table', name: format };
  let line = 1;
  let rows = 0;
  try {
    for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
      const at = line;
      line = info.lines + 1;
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
    if (error.code === 'CSV_MAX_RECORD_SIZE') throw new DocumentTooLarge('maxCellChars', limits.maxCellChars);
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

async function beginning(source: Source, label: string): Promise<string> {
  for await (const text of textOf(source, label)) return text.slice(0, sampleChars);
  return '';
}
