import { contentTypes } from './content-types.ts';
import { DocumentMalformed, type Limits } from './errors.ts';
import type { Detected, Format } from './extractor.ts';
import { chunksOf, readBytes, type OpenFile } from './raw.ts';

const sampleBytes = 65_536;

/** Beginnings of what is known, and not read. */
const others: readonly (readonly [beginning: string, contentType: string])[] = [
  ['\x89PNG\r\n\x1a\n', 'image/png'],
  ['\xff\xd8\xff', 'image/jpeg'],
  ['GIF8', 'image/gif'],
  ['II*\0', 'image/tiff'],
  ['MM\0*', 'image/tiff'],
  ['\x1f\x8b', 'application/gzip'],
  ['7z\xbc\xaf\x27\x1c', 'application/x-7z-compressed'],
  ['Rar!', 'application/vnd.rar'],
  ['{\\rtf', 'application/rtf'],
  ['\x7fELF', 'application/x-elf'],
  ['MZ', 'application/vnd.microsoft.portable-executable'],
];

const readable = (format: Format, encrypted = false): Detected => ({
  format,
  contentType: contentTypes[format],
  encrypted,
  ...(encrypted ? { problem: 'DOCUMENT_ENCRYPTED' as const } : {}),
});

const unreadable = (contentType: string, problem: Detected['problem'] = 'DOCUMENT_UNSUPPORTED'): Detected => ({
  format: null,
  contentType,
  encrypted: problem === 'DOCUMENT_ENCRYPTED',
  problem,
});

/** What a file is, by its content. */
export async function detect(file: OpenFile, limits: Limits): Promise<Detected> {
  const head = await readBytes(file, 0, sampleBytes);
  if (head.length === 0) return unreadable('application/octet-stream', 'DOCUMENT_MALFORMED');
  const latin = head.toString('latin1');
  if (latin.slice(0, 1024).includes('%PDF-')) return pdf(file);
  if (latin.startsWith('PK\x03\x04') || latin.startsWith('PK\x05\x06')) return zip(file, limits);
  if (latin.startsWith('\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1')) return compound(file, head);
  const other = others.find(([beginning]) => latin.startsWith(beginning));
  // Two letters are the beginning of many texts.
  if (other && (other[0].length > 2 || latin.slice(0, 256).includes('\0'))) return unreadable(other[1]);
  return text(file, head);
}

async function find(file: OpenFile, needle: Buffer): Promise<number> {
  let at = 0;
  let rest = Buffer.alloc(0);
  for await (const chunk of chunksOf(file, 1_048_576)) {
    const bytes = Buffer.concat([rest, chunk]);
    const index = bytes.indexOf(needle);
    if (index >= 0) return at - rest.length + index;
    at += chunk.length;
    rest = Buffer.from(bytes.subarray(-needle.length));
  }
  return -1;
}

async function pdf(file: OpenFile): Promise<Detected> {
  // Most are not encrypted at all, and of those that are many can be read by everybody.
  if ((await find(file, Buffer.from('/Encrypt'))) < 0) return readable('PDF');
  const { wantsPassword } = await import('./readers/pdf.ts');
  return readable('PDF', await wantsPassword(await readBytes(file)));
}

async function zip(file: OpenFile, limits: Limits): Promise<Detected> {
  const [{ openPackage }, { relations }] = await Promise.all([
    import('./readers/zip.ts'),
    import('./readers/relations.ts'),
  ]);
  try {
    const pack = await openPackage(file, limits);
    const root = (await relations(pack, '')).find(({ type }) => type === 'officeDocument')?.part.toLowerCase();
    if (root?.endsWith('.xml') && pack.has(root)) {
      for await (const chunk of pack.read(root)) {
        const start = chunk.toString('latin1', 0, 8_192).replaceAll(/<\?.*?\?>|<!--.*?-->/gs, '');
        const name = /<(?:\w+:)?(\w+)[\s>]/.exec(start)?.[1];
        if (name === 'workbook') return readable('XLSX');
        if (name === 'document') return readable('DOCX');
        break;
      }
    }
    return unreadable(
      root?.endsWith('.bin') ? 'application/vnd.ms-excel.sheet.binary.macroEnabled.12' : 'application/zip',
    );
  } catch (error) {
    if (error instanceof DocumentMalformed) return unreadable('application/zip', 'DOCUMENT_MALFORMED');
    throw error;
  }
}

const wide = (name: string): Buffer => Buffer.from(`${name}\0`, 'utf16le');

/** @see [MS-CFB] 2.6.1, [MS-XLS] 2.4.117 */
async function compound(file: OpenFile, head: Buffer): Promise<Detected> {
  const container = 'application/x-ole-storage';
  // An Office Open XML file with a password is a stream of such a container.
  if ((await find(file, wide('EncryptedPackage'))) >= 0) return unreadable(container, 'DOCUMENT_ENCRYPTED');
  for (const name of ['Workbook', 'Book']) {
    const entry = await find(file, wide(name));
    if (entry < 0) continue;
    const fields = await readBytes(file, entry, 128);
    if (fields.length < 128) return unreadable(container, 'DOCUMENT_MALFORMED');
    const sector = 2 ** head.readUInt16LE(30);
    const start = (fields.readUInt32LE(116) + 1) * sector;
    const records = await readBytes(file, start, 512);
    for (let at = 0, count = 0; at + 4 <= records.length && count < 8; count++) {
      if (records.readUInt16LE(at) === 0x2f) return readable('XLS', true);
      at += 4 + records.readUInt16LE(at + 2);
    }
    return readable('XLS');
  }
  return unreadable(container);
}

/** A tenth of what is no text are control characters, and soon there is U+0000; of a text few are. */
function isBinary(sample: string): boolean {
  // oxlint-disable-next-line no-control-regex
  const controls: readonly string[] = sample.match(/[\u0000-\u0008\u000E-\u0019\u001C-\u001F]/g) ?? [];
  return controls.includes('\0') || controls.length * 12 > sample.length;
}

async function text(file: OpenFile, head: Buffer): Promise<Detected> {
  const [{ encodingOf }, { dialectOf }] = await Promise.all([
    import('./readers/text.ts'),
    import('./readers/dialect.ts'),
  ]);
  const { label } = await encodingOf(file);
  const sample = new TextDecoder(label).decode(head);
  if (isBinary(sample)) return unreadable('application/octet-stream');
  if (/<(?:!doctype\s+html|html|table)[\s>]/i.test(sample)) return readable('HTML');
  if (/^\s*<\?xml\s/.test(sample)) return unreadable('application/xml');
  if (/^\s*(?:\{\s*["}]|\[\s*[{["\]])/.test(sample)) return unreadable('application/json');
  if (sample.trim() === '') return unreadable('text/plain', 'DOCUMENT_MALFORMED');
  return readable(
    dialectOf(sample, { format: 'CSV', cut: head.length >= sampleBytes }).delimiter === '\t' ? 'TSV' : 'CSV',
  );
}
