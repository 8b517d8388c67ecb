import { SaxesParser } from 'saxes';
import { DocumentMalformed, DocumentBeyondLimits } from '../errors.ts';
import { markOf } from './text.ts';

/** Attributes by their local names. */
export type Attributes = Readonly<Record<string, string>>;

export interface Handler {
  /** Local names: what a file calls the namespace is its own affair. */
  readonly open: (name: string, attributes: Attributes) => void;
  readonly close: (name: string) => void;
  readonly text: (text: string) => void;
}

const maxDepth = 256;
/** Of text or markup without an end. */
const maxPiece = 16_777_216;

const local = (name: string): string => name.slice(name.indexOf(':') + 1);

/** Reads XML to its end. @throws DocumentMalformed, DocumentBeyondLimits */
export async function readXml(chunks: AsyncIterable<Buffer>, handler: Handler): Promise<void> {
  const found: never[] = [];
  for await (const batch of streamXml(chunks, handler, found)) if (batch.length > 0) return;
}

/**
 * Reads XML as it arrives. What the handler puts into `found` is given on after each piece. A document type is refused:
 * office files have none, and entities come from there.
 * @throws DocumentMalformed, DocumentBeyondLimits
 */
export async function* streamXml<T>(
  chunks: AsyncIterable<Buffer>,
  handler: Handler,
  found: T[],
): AsyncGenerator<T[], void, void> {
  const parser = new SaxesParser({ xmlns: false, position: false, fragment: false });
  let depth = 0;
  let quietFor = 0;
  parser.on('error', () => {
    throw new DocumentMalformed('The XML is not well-formed.');
  });
  parser.on('doctype', () => {
    throw new DocumentMalformed('The XML has a document type: none is read.');
  });
  parser.on('opentag', ({ name, attributes }) => {
    quietFor = 0;
    depth += 1;
    if (depth > maxDepth) throw new DocumentMalformed('The XML is nested too deeply.');
    const given: Record<string, string> = Object.create(null) as Record<string, string>;
    for (const key in attributes) given[local(key)] = attributes[key] as string;
    handler.open(local(name), given);
  });
  parser.on('closetag', ({ name }) => {
    quietFor = 0;
    depth -= 1;
    handler.close(local(name));
  });
  parser.on('text', (text) => {
    quietFor = 0;
    handler.text(text);
  });
  parser.on('cdata', (text) => {
    quietFor = 0;
    handler.text(text);
  });
  let decoder: TextDecoder | null = null;
  for await (const chunk of chunks) {
    decoder ??= new TextDecoder(markOf(chunk) ?? 'utf-8');
    quietFor += chunk.length;
    if (quietFor > maxPiece) throw new DocumentBeyondLimits('maxCellChars', maxPiece);
    parser.write(decoder.decode(chunk, { stream: true }));
    if (found.length > 0) yield found.splice(0);
  }
  parser.write(decoder?.decode() ?? '');
  parser.close();
  if (found.length > 0) yield found.splice(0);
}
