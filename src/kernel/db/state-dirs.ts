import { createHash, randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { access, chmod, copyFile, link, lstat, mkdir, realpath, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';

/** A user of the operating system, as the kernel's permission checks see one. */
export interface UnixUser {
  readonly uid: number;
  readonly gid: number;
}

/** Matches no owner and no group, so that only the permission bits for others count. */
const anyoneElse: UnixUser = { uid: -1, gid: -1 };

/** The folder for what other users of the machine must reach cannot be used; the message says why. */
export class SharedFolderError extends Error {
  readonly folder: string;
  constructor(folder: string, problem: string) {
    super(`The folder ${folder} ${problem}.`);
    this.folder = folder;
  }
}

/** The code of a system error, for instance `ENOENT`; undefined for all else. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

export async function exists(file: string): Promise<boolean> {
  try {
    await access(file);
    return true;
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR') return false;
    throw error;
  }
}

/**
 * Whether the permission bits let `user` search every folder above `file` and execute (a folder: search) it, on the
 * path as written and on the path that its symbolic links lead to. Access control lists are not looked at.
 * @throws {NodeJS.ErrnoException} ENOENT when there is no such file
 */
export async function reachableBy(file: string, user: UnixUser): Promise<boolean> {
  const written = path.resolve(file);
  for (const start of new Set([written, await realpath(written)])) {
    for (let at = start; ; at = path.dirname(at)) {
      const { mode, uid, gid } = await stat(at);
      const bit = user.uid === uid ? 0o100 : user.gid === gid ? 0o010 : 0o001;
      if (user.uid !== 0 && !(mode & bit)) return false;
      if (at === path.dirname(at)) break;
    }
  }
  return true;
}

/**
 * The two folders of an installation, made if they are missing, as absolute paths without symbolic links.
 * - `stateDir`: secrets and the like, for this user only (0700).
 * - `sharedDir`: what another user of the machine must reach: when this process is root, the database server and the
 *   applications run as somebody else. Then it is root's, 0711 and, unless given, beside `stateDir` or, where others
 *   cannot get there (a home folder), below /var/lib. For anybody else it is a folder in `stateDir`.
 * @throws {SharedFolderError} when root would have to trust a folder that somebody else can change
 */
export async function resolveStateDirs(options: {
  stateDir: string;
  sharedDir?: string | undefined;
}): Promise<{ stateDir: string; sharedDir: string }> {
  // Only the folder itself is private: others must be able to pass through those above it to the shared one.
  await mkdir(path.dirname(path.resolve(options.stateDir)), { recursive: true });
  await mkdir(options.stateDir, { recursive: true, mode: 0o700 });
  const stateDir = await realpath(options.stateDir);
  await chmod(stateDir, 0o700);
  const asRoot = process.getuid?.() === 0;
  const sharedDir = path.resolve(
    options.sharedDir ?? (asRoot ? await sharedDirOfRoot(stateDir) : path.join(stateDir, 'shared')),
  );
  await mkdir(sharedDir, { recursive: true, mode: asRoot ? 0o711 : 0o700 });
  if (asRoot) {
    const info = await lstat(sharedDir);
    if (!info.isDirectory() || info.uid !== 0) throw new SharedFolderError(sharedDir, "must be root's own folder");
    await chmod(sharedDir, 0o711);
  }
  return { stateDir, sharedDir: await realpath(sharedDir) };
}

async function sharedDirOfRoot(stateDir: string): Promise<string> {
  if (await reachableBy(path.dirname(stateDir), anyoneElse)) return `${stateDir}.shared`;
  const parent = '/var/lib/switchyard-shared';
  await mkdir(parent, { recursive: true });
  await chmod(parent, 0o711);
  return path.join(parent, createHash('sha256').update(stateDir).digest('hex').slice(0, 12));
}

/**
 * A path by which any user of the machine can execute `file`: the path itself, else that of a copy at
 * `<sharedDir>/bin/<name>-<hash of size and mtime>/<name>`, made in one step, so that many processes may ask at once.
 * @throws {NodeJS.ErrnoException} when the file cannot be read or the copy cannot be written
 */
export async function shareExecutable(file: string, sharedDir: string): Promise<string> {
  if (await reachableBy(file, anyoneElse)) return file;
  const name = path.basename(file);
  const { size, mtimeMs, mode } = await stat(file);
  const version = createHash('sha256').update(`${size} ${mtimeMs}`).digest('hex').slice(0, 12);
  const folder = path.join(sharedDir, 'bin', `${name}-${version}`);
  await makeOnce(folder, async (draft) => {
    const copy = path.join(draft, name);
    // A link costs no space, but it has the permissions of the original.
    if ((mode & 0o555) !== 0o555 || !(await tryLink(await realpath(file), copy))) {
      await copyFile(file, copy, constants.COPYFILE_FICLONE);
      await chmod(copy, 0o755);
    }
  });
  return path.join(folder, name);
}

async function tryLink(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    // Another file system, somebody else's file, a file system without links.
    if (['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'EOPNOTSUPP'].includes(errorCode(error) ?? '')) return false;
    throw error;
  }
}

/**
 * Makes `folder` (0755) by filling a draft beside it and renaming that, unless it is there: nobody ever sees it
 * incomplete, and of several that make it at once one wins.
 */
export async function makeOnce(folder: string, fill: (draft: string) => Promise<void>): Promise<void> {
  if (await exists(folder)) return;
  const draft = `${folder}.draft-${randomUUID()}`;
  await mkdir(draft, { recursive: true });
  try {
    await chmod(path.dirname(draft), 0o755);
    await chmod(draft, 0o755);
    await fill(draft);
    await rename(draft, folder);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    if (!['ENOTEMPTY', 'EEXIST'].includes(errorCode(error) ?? '')) throw error;
  }
}
