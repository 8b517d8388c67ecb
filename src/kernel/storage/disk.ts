import { randomUUID } from 'node:crypto';
import { addAbortListener } from 'node:events';
import { link, mkdir, open, opendir, readdir, stat, unlink } from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { Conflict, NotFound } from '../errors.ts';
import { intake, readerReports } from './intake.ts';
import { codeOf } from '../system-error.ts';
import { isBlobKey, mustBeKey, StorageUnavailable, type BlobStore, type PutOptions, type StoredBlob } from './store.ts';

const hasCode = (error: unknown, code: string): boolean => codeOf(error) === code;

/** What the file system refuses, as the interface says it. */
const refused = (error: unknown): unknown =>
  error instanceof Error && 'syscall' in error ? new StorageUnavailable(error) : error;

/** Runs a file operation. @throws {StorageUnavailable} */
const done = <T>(operation: Promise<T>): Promise<T> =>
  operation.catch((error: unknown) => {
    throw refused(error);
  });

/** Runs a file operation; undefined when there is no such file. @throws as `done` */
const ifThere = <T>(operation: Promise<T>): Promise<T | undefined> =>
  operation.catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw refused(error);
  });

/**
 * Blobs as files of the local disk: `<stateDir>/blobs/<2 digits>/<2 digits>/<key>`, mode 0600. Several processes may
 * share the folder. What uploads left that a crash ended is in `incoming`, until `sweep` removes it.
 *
 * @param stateDir absolute folder of the host's state; made if it is not there
 */
export async function createDiskBlobStore(stateDir: string): Promise<BlobStore> {
  const root = path.join(stateDir, 'blobs');
  const incoming = path.join(root, 'incoming');
  await mkdir(incoming, { recursive: true, mode: 0o700 });

  const fileOf = (key: string): string => {
    mustBeKey(key);
    // The end of a UUID is random in every version; the start of version 7 is the time.
    return path.join(root, key.slice(-4, -2), key.slice(-2), key);
  };

  return {
    async put(key, source, options) {
      const file = fileOf(key);
      const { signal } = options;
      // From the start, since the source may fail, or the caller give up, before the first byte is read.
      source.on('error', readerReports);
      const abort = signal && addAbortListener(signal, () => source.destroy());
      const temporary = path.join(incoming, randomUUID());
      try {
        if (await ifThere(stat(file))) throw new Conflict('There is a file with this key already.');
        const stored = await receive(source, temporary, options);
        const folder = path.dirname(file);
        const isNew = (await done(mkdir(folder, { recursive: true, mode: 0o700 }))) !== undefined;
        signal?.throwIfAborted();
        // Unlike rename, link does not replace what another upload has put there in the meantime.
        await link(temporary, file).catch((error: unknown) => {
          if (hasCode(error, 'EEXIST')) throw new Conflict('There is a file with this key already.');
          throw refused(error);
        });
        // The names must survive a power cut as well.
        await syncFolder(folder);
        if (isNew) for (const parent of [path.dirname(folder), root]) await syncFolder(parent);
        return stored;
      } finally {
        abort?.[Symbol.dispose]();
        source.off('error', readerReports);
        await ifThere(unlink(temporary));
      }
    },

    async get(key, { start, end } = {}) {
      const handle = await ifThere(open(fileOf(key), 'r'));
      if (!handle) throw new NotFound('file', key);
      try {
        const { size } = await done(handle.stat());
        const first = start ?? 0;
        const last = end ?? size - 1;
        const whole = start === undefined && end === undefined;
        if (!whole && !(first >= 0 && first <= last && last < size)) {
          throw new RangeError(`Bytes ${first}-${last} are not within a blob of ${size} bytes`);
        }
        // The stream closes the handle, also when it is destroyed.
        const stream = handle.createReadStream(whole ? {} : { start: first, end: last });
        return { stream, sizeBytes: size };
      } catch (error) {
        await handle.close();
        throw error;
      }
    },

    async stat(key) {
      const found = await ifThere(stat(fileOf(key)));
      return found ? { sizeBytes: found.size, storedAt: found.mtime } : null;
    },

    async remove(key) {
      await ifThere(unlink(fileOf(key)));
    },

    async *list(before) {
      for await (const file of filesBelow(root)) {
        const key = path.basename(file);
        // What is not where it belongs is nobody's blob, and left alone.
        if (!isBlobKey(key) || fileOf(key) !== file) continue;
        const found = await ifThere(stat(file));
        if (found && found.mtime < before) yield { key, sizeBytes: found.size, storedAt: found.mtime };
      }
    },

    async sweep(before) {
      let removed = 0;
      for (const name of await done(readdir(incoming))) {
        const file = path.join(incoming, name);
        const found = await ifThere(stat(file));
        if (!found || found.mtime >= before) continue;
        await ifThere(unlink(file));
        removed++;
      }
      return removed;
    },
  };
}

/** One folder is open at a time on each level, so that millions of files need no memory. */
async function* filesBelow(folder: string): AsyncGenerator<string> {
  const entries = await ifThere(opendir(folder));
  if (!entries) return;
  for await (const entry of entries) {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* filesBelow(name);
    else if (entry.isFile()) yield name;
  }
}

/** Writes the source to a new file. */
async function receive(source: Readable, file: string, options: PutOptions): Promise<StoredBlob> {
  const { chunks, stored } = intake(source, options);
  const handle = await done(open(file, 'wx', 0o600));
  try {
    for await (const chunk of chunks) await done(handle.writeFile(chunk));
    await done(handle.sync());
  } finally {
    await done(handle.close());
  }
  return stored();
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await done(open(folder, 'r'));
  try {
    await done(handle.sync());
  } finally {
    await done(handle.close());
  }
}
