import { fromFdPromise, type Entry } from 'yauzl';
import { DocumentMalformed, DocumentBeyondLimits, type Limits } from '../errors.ts';
import type { OpenFile } from '../raw.ts';

/** Parts of a package by their names, without a leading slash. */
export interface Package {
  readonly names: readonly string[];
  has(name: string): boolean;
  /**
   * A part, inflated while it is read.
   * @throws DocumentMalformed when there is none, DocumentBeyondLimits by what comes out, whatever its header says
   */
  read(name: string): AsyncIterable<Buffer>;
}

const maxEntries = 20_000;
/** Deflate reaches 1,030; documents that people made are far below. */
const maxRatio = 400;
/** Less than this is no danger at any ratio, bytes. */
const harmless = 33_554_432;

/**
 * Opens a ZIP package. Nothing is ever written to disk by a name in it, and a name that would lead out of a folder makes
 * the whole package malformed.
 * @throws DocumentMalformed
 */
export async function openPackage(file: OpenFile, limits: Limits): Promise<Package> {
  // yauzl checks names, and that no entry gives more than its header says.
  const zip = await fromFdPromise(file.fd, { autoClose: false, strictFileNames: true }).catch(malformed);
  const entries = new Map<string, Entry>();
  try {
    for await (const entry of zip.eachEntry()) {
      // Two readers of the same name could see two different documents.
      const name = entry.fileName.toLowerCase();
      if (entries.has(name)) throw new DocumentMalformed('The package has two parts of the same name.');
      entries.set(name, entry);
      if (entries.size > maxEntries) throw new DocumentMalformed('The package has too many parts.');
    }
  } catch (error) {
    if (error instanceof DocumentMalformed) throw error;
    malformed();
  }
  let unpacked = 0;
  return {
    names: [...entries.values()].map(({ fileName }) => fileName),
    has: (name) => entries.has(name.toLowerCase()),
    async *read(name) {
      const entry = entries.get(name.toLowerCase());
      if (!entry) throw new DocumentMalformed('The package has not all of its parts.');
      if (entry.isEncrypted()) throw new DocumentMalformed('A part of the package is encrypted.');
      let size = 0;
      const stream = await zip.openReadStreamPromise(entry).catch(malformed);
      try {
        for await (const chunk of stream as AsyncIterable<Buffer>) {
          size += chunk.length;
          unpacked += chunk.length;
          if (unpacked > limits.maxUnpackedBytes || (size > harmless && size > entry.compressedSize * maxRatio))
            throw new DocumentBeyondLimits('maxUnpackedBytes', limits.maxUnpackedBytes);
          yield chunk;
        }
      } catch (error) {
        if (error instanceof DocumentBeyondLimits) throw error;
        malformed();
      } finally {
        stream.destroy();
      }
    },
  };
}

function malformed(): never {
  throw new DocumentMalformed('The package is damaged.');
}
