import { constants } from 'node:fs';
import { open, opendir, readlink, realpath } from 'node:fs/promises';
import path from 'node:path';
import { codeOf } from '#kernel/system-error.ts';

export interface SourceFile {
  /** In the repository, with slashes. */
  readonly path: string;
  readonly name: string;
}

/** A checkout, as far as it is looked at. */
export interface Source {
  readonly root: string;
  readonly files: readonly SourceFile[];
  /** Symbolic links and other things that are no files: nothing follows them. */
  readonly others: number;
  /** Why files are missing from the list; null: it is complete. */
  readonly cut: string | null;
  /**
   * The beginning of a file, `maxBytes` at most.
   * @returns null when it is no file (any more), or leads out of the checkout
   */
  read(file: SourceFile, maxBytes: number): Promise<{ readonly bytes: Buffer; readonly complete: boolean } | null>;
}

const maxFiles = 20_000;
const maxDepth = 64;
const maxPath = 1024;

/** Lists the files of a checkout. Nothing in it is trusted: it may be changed while this looks. */
export async function openSource(folder: string): Promise<Source> {
  const root = await realpath(folder);
  const files: SourceFile[] = [];
  let others = 0;
  let cut: string | null = null;
  const open = [''];
  for (let at = open.shift(); at !== undefined && !cut; at = open.shift()) {
    if (at.split('/').length > maxDepth) {
      cut = `Folders deeper than ${maxDepth} were not looked into.`;
      break;
    }
    const dir = await opendir(path.join(root, at), { bufferSize: 256 }).catch((error: unknown) => {
      if (['ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG'].includes(String(codeOf(error)))) return null;
      throw error;
    });
    if (!dir) {
      cut = 'A folder went away, or has a name that cannot be read.';
      continue;
    }
    for await (const entry of dir) {
      const name = at ? `${at}/${entry.name}` : entry.name;
      if (at === '' && entry.name === '.git') continue;
      if (entry.isDirectory()) open.push(name);
      else if (!entry.isFile()) others += 1;
      else if (name.length > maxPath) cut = `Files with a path longer than ${maxPath} were not looked at.`;
      else if (files.length >= maxFiles) {
        cut = `It has more than ${maxFiles} files; the rest was not looked at.`;
        break;
      } else files.push({ path: name, name: entry.name });
    }
  }
  return { root, files, others, cut, read: (file, maxBytes) => readBeginning(root, file, maxBytes) };
}

async function readBeginning(root: string, file: SourceFile, maxBytes: number): ReturnType<Source['read']> {
  const full = path.join(root, file.path);
  const handle = await open(full, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error: unknown) => {
      if (['ENOENT', 'ELOOP', 'ENOTDIR', 'ENXIO', 'EACCES', 'EMLINK'].includes(String(codeOf(error)))) return null;
      throw error;
    },
  );
  if (!handle) return null;
  try {
    const found = await handle.stat();
    if (!found.isFile()) return null;
    // A folder on the way may have become a link since it was listed: what is open must lie inside.
    const real = process.platform === 'linux' ? await readlink(`/proc/self/fd/${handle.fd}`) : await realpath(full);
    if (!real.startsWith(root + path.sep)) return null;
    const bytes = Buffer.alloc(Math.min(found.size, maxBytes));
    let filled = 0;
    while (filled < bytes.length) {
      const { bytesRead } = await handle.read(bytes, filled, bytes.length - filled, filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return { bytes: bytes.subarray(0, filled), complete: found.size <= maxBytes };
  } finally {
    await handle.close();
  }
}
