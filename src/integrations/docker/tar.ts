import { constants, type Stats } from 'node:fs';
import { lstat, open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf } from '#kernel/system-error.ts';
import { ignoredBy } from './ignore.ts';

/** What cannot be sent as a context, as a sentence. */
export class ContextRefused extends Error {}

export interface ContextLimits {
  /** Of all files together. */
  readonly maxBytes: number;
  readonly maxFiles: number;
}

const maxSmallBytes = 2 ** 20;
const maxRules = 2 ** 16;
const block = 512;

/**
 * The files of a folder as a tar archive (POSIX 2001). Symbolic links are sent as links and never followed, and what is
 * neither file, folder nor link is left out. Owners are not told.
 * @param added files that stand in for, or beside, those of the folder
 */
export async function* contextOf(
  folder: string,
  added: Readonly<Record<string, string>>,
  limits: ContextLimits,
): AsyncGenerator<Buffer, void, undefined> {
  const rules = (await readSmall(folder, '.dockerignore')) ?? '';
  // Each file is compared with each rule.
  if (rules.length > maxRules) throw new ContextRefused(`.dockerignore has more than ${maxRules} characters.`);
  const ignored = ignoredBy(rules);
  let [bytes, files] = [0, 0];
  for (const [name, text] of Object.entries(added)) {
    const content = Buffer.from(text);
    yield* header({ name, type: '0', mode: 0o644, size: content.length });
    yield padded(content);
  }
  for await (const [name, found] of walk(folder, '')) {
    if (name in added) continue;
    // The builder reads these two itself; the second tells it what to leave out once more.
    if (name !== 'Dockerfile' && name !== '.dockerignore' && ignored(name)) continue;
    files += 1;
    if (files > limits.maxFiles) throw new ContextRefused(`The repository has more than ${limits.maxFiles} files.`);
    // What Git knows of a mode, and no more: a checkout is private to its user, an image is read by another one.
    const mode = found.isDirectory() || (found.mode & 0o100) !== 0 ? 0o755 : 0o644;
    if (found.isDirectory()) yield* header({ name: `${name}/`, type: '5', mode, size: 0 });
    else if (found.isSymbolicLink())
      yield* header({ name, type: '2', mode: 0o777, size: 0, link: await readlink(join(folder, name)) });
    else if (found.isFile()) {
      bytes += found.size;
      if (bytes > limits.maxBytes)
        throw new ContextRefused(`The repository has more than ${Math.round(limits.maxBytes / 2 ** 20)} MiB.`);
      yield* file(join(folder, name), name, mode);
    }
  }
  yield Buffer.alloc(2 * block);
}

async function* walk(folder: string, below: string): AsyncGenerator<[string, Stats], void, undefined> {
  for (const entry of (await readdir(join(folder, below))).toSorted()) {
    const name = below ? `${below}/${entry}` : entry;
    if (name === '.git') continue;
    const found = await lstat(join(folder, name));
    yield [name, found];
    if (found.isDirectory()) yield* walk(folder, name);
  }
}

async function* file(path: string, name: string, mode: number): AsyncGenerator<Buffer, void, undefined> {
  await using handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const { size } = await handle.stat();
  yield* header({ name, type: '0', mode, size });
  for (let at = 0; at < size;) {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(Math.min(2 ** 16, size - at)), { position: at });
    if (bytesRead === 0) throw new ContextRefused(`${name} changed while it was read.`);
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
  if (size % block > 0) yield Buffer.alloc(block - (size % block));
}

interface Entry {
  readonly name: string;
  readonly type: '0' | '2' | '5' | 'x';
  readonly mode: number;
  readonly size: number;
  readonly link?: string;
}

/** A header; what does not fit into its fields stands in an extended one before it. */
function* header(entry: Entry): Generator<Buffer, void, undefined> {
  const records = [
    ...(fits(entry.name, 100) ? [] : [record('path', entry.name)]),
    ...(entry.link === undefined || fits(entry.link, 100) ? [] : [record('linkpath', entry.link)]),
    ...(entry.size < 8 ** 11 ? [] : [record('size', String(entry.size))]),
  ];
  if (records.length > 0) {
    const more = Buffer.concat(records);
    yield plain({ name: 'PaxHeader', type: 'x', mode: 0o644, size: more.length });
    yield padded(more);
  }
  yield plain(entry);
}

function plain({ name, type, mode, size, link = '' }: Entry): Buffer {
  const head = Buffer.alloc(block);
  head.write(name, 0, 100);
  head.write(octal(mode, 8), 100);
  head.write(octal(0, 8), 108);
  head.write(octal(0, 8), 116);
  head.write(octal(size < 8 ** 11 ? size : 0, 12), 124);
  // The same repository makes the same image: times are not told.
  head.write(octal(0, 12), 136);
  head.write(' '.repeat(8), 148);
  head.write(type, 156);
  head.write(link, 157, 100);
  head.write('ustar\u000000', 257);
  const sum = head.reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return head;
}

const fits = (text: string, size: number): boolean => Buffer.byteLength(text) <= size && /^[\x20-\x7e]*$/.test(text);
const octal = (value: number, width: number): string => `${value.toString(8).padStart(width - 1, '0')}\0`;

function padded(content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc((block - (content.length % block)) % block)]);
}

/** `<length> <key>=<value>\n`, where the length counts itself. */
function record(key: string, value: string): Buffer {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + 1;
  while (String(length).length + rest !== length) length = String(length).length + rest;
  return Buffer.from(`${length} ${key}=${value}\n`);
}

/** The text of a file of the folder itself; null: there is none. @throws {ContextRefused} when it is a link, or large */
export async function readSmall(folder: string, name: string): Promise<string | null> {
  try {
    await using handle = await open(
      join(folder, name),
      constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
    );
    const found = await handle.stat();
    if (!found.isFile() || found.size > maxSmallBytes)
      throw new ContextRefused(`${name} is not a file of at most 1 MiB.`);
    return await handle.readFile('utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    if (codeOf(error) === 'ELOOP') throw new ContextRefused(`${name} is a symbolic link.`);
    throw error;
  }
}
