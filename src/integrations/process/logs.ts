import { open, readdir, stat, truncate, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { lineSplitter } from './lines.ts';
import { codeOf } from '#kernel/system-error.ts';

const tailBytes = 256 * 1024;
const followIntervalMs = 100;

/** The end of a log that is larger is moved to `<file>.1` by `rotateLogs`, so that logs take about twice that, bytes. */
export const maxLogBytes = 10 * 2 ** 20;

/** The last `lines` lines of a log file, across its last rotation, of its last 256 KiB; none when there is no file. */
export async function tailLog(file: string, lines: number): Promise<string[]> {
  let text = await readEnd(file);
  // Just after a rotation the last words are in the older file.
  if (text.split('\n').length <= lines) text = (await readEnd(`${file}.1`)) + text;
  const found: string[] = [];
  const splitter = lineSplitter((line) => found.push(line));
  splitter.push(text);
  splitter.end();
  return found.slice(-lines);
}

/** The lines of a log file from a byte on, then those that come, until `signal` ends it (without an error). */
export async function* followLog(
  file: string,
  signal: AbortSignal,
  fromByte = 0,
): AsyncGenerator<string, void, undefined> {
  const ready: string[] = [];
  const splitter = lineSplitter((line) => ready.push(line));
  const decoder = new TextDecoder();
  let position = fromByte;
  for (;;) {
    // Read once more after the end: the last words count.
    const last = signal.aborted;
    const chunk = await readFrom(file, position);
    if (chunk.rotated) position = 0;
    position += chunk.bytes.length;
    splitter.push(decoder.decode(chunk.bytes, { stream: true }));
    yield* ready.splice(0);
    if (last) break;
    if (chunk.bytes.length > 0 || chunk.rotated) continue;
    try {
      await delay(followIntervalMs, undefined, { signal });
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
  splitter.end();
  yield* ready;
}

/**
 * Moves what the instances of a host have written beyond `maxBytes` aside. They keep writing to the same open file, in
 * append mode, so it is copied and cut; lines written between the two are lost.
 * @returns how many were cut
 */
export async function rotateLogs(hostDir: string, maxBytes = maxLogBytes): Promise<number> {
  const applications = join(hostDir, 'applications');
  let cut = 0;
  for (const application of await listFolder(applications)) {
    for (const name of await listFolder(join(applications, application))) {
      const file = join(applications, application, name);
      if (name.endsWith('.log') && (await rotateLog(file, maxBytes))) cut += 1;
    }
  }
  return cut;
}

/** Rotates one file when it is larger than `maxBytes`; says whether it was. */
export async function rotateLog(file: string, maxBytes = maxLogBytes): Promise<boolean> {
  try {
    const found = await stat(file);
    if (!found.isFile() || found.size <= maxBytes) return false;
    await copyEnd(file, `${file}.1`, found.size - maxBytes, maxBytes);
    await truncate(file, 0);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false; // removed in the meantime
    throw error;
  }
}

/** Never more than `length`: the program that writes the log says how long it is, and need not have written all of it. */
async function copyEnd(from: string, to: string, start: number, length: number): Promise<void> {
  await using source = await open(from, 'r');
  await using target = await open(to, 'w', 0o600);
  const piece = Buffer.alloc(Math.min(length, 2 ** 20));
  for (let done = 0; done < length;) {
    const { bytesRead } = await source.read(piece, 0, Math.min(piece.length, length - done), start + done);
    if (bytesRead === 0) return; // cut by its own program in the meantime
    await target.writeFile(piece.subarray(0, bytesRead));
    done += bytesRead;
  }
}

async function listFolder(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return [];
    throw error;
  }
}

async function readEnd(file: string): Promise<string> {
  const handle = await openIfThere(file);
  if (!handle) return '';
  try {
    const { size } = await handle.stat();
    const length = Math.min(size, tailBytes);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, size - length);
    const text = buffer.subarray(0, bytesRead).toString();
    // The first line of a part is rarely whole.
    return size > length ? text.slice(text.indexOf('\n') + 1) : text;
  } finally {
    await handle.close();
  }
}

async function readFrom(file: string, position: number): Promise<{ bytes: Buffer; rotated: boolean }> {
  const handle = await openIfThere(file);
  if (!handle) return { bytes: Buffer.alloc(0), rotated: false };
  try {
    const { size } = await handle.stat();
    if (size < position) return { bytes: Buffer.alloc(0), rotated: true };
    const length = Math.min(size - position, tailBytes);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, position);
    return { bytes: buffer.subarray(0, bytesRead), rotated: false };
  } finally {
    await handle.close();
  }
}

async function openIfThere(file: string): Promise<FileHandle | null> {
  try {
    return await open(file, 'r');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
}
