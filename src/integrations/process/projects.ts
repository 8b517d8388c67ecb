import { constants } from 'node:fs';
import { lstat, open } from 'node:fs/promises';
import { join } from 'node:path';
import { DomainError } from '#kernel/errors.ts';
import { codeOf } from '#kernel/system-error.ts';

/** Nobody said how to build or start the project, and it cannot be told from its files. */
export class UnknownProject extends DomainError {
  readonly code = 'UNKNOWN_PROJECT';
}

export interface DetectedProject {
  /** For `/bin/sh -c` in the release folder; null: there is nothing to build. */
  readonly buildCommand: string | null;
  readonly startCommand: string;
}

const maxPackageBytes = 2 ** 20;

/**
 * Looks at the files of a Node project in a release folder. Commands come from it as text only; nothing is run.
 * @throws UnknownProject
 */
export async function detectProject(path: string): Promise<DetectedProject> {
  const text = await readOwnFile(join(path, 'package.json'));
  if (text === null) {
    if (await exists(path, 'server.js')) return { buildCommand: null, startCommand: 'node server.js' };
    throw new UnknownProject('There is no package.json and no server.js: give a build and a start command.');
  }
  const manifest = parseManifest(text);
  const scripts = recordOf(manifest['scripts']);
  const hasBuild = typeof scripts['build'] === 'string';
  const hasLock = (await exists(path, 'package-lock.json')) || (await exists(path, 'npm-shrinkwrap.json'));
  const hasDependencies = Object.keys(recordOf(manifest['dependencies'])).length > 0;
  if (hasDependencies && !hasLock && !(await exists(path, 'node_modules'))) {
    throw new UnknownProject(
      'package.json has dependencies but no package-lock.json: commit it, or give a build command.',
    );
  }
  // A build needs the development dependencies, which npm leaves out in production.
  const install = hasBuild ? 'npm ci --include=dev' : 'npm ci';
  const build = [...(hasLock ? [install] : []), ...(hasBuild ? ['npm run build'] : [])];
  return {
    buildCommand: build.length > 0 ? build.join(' && ') : null,
    startCommand: await startCommandOf(path, manifest, scripts),
  };
}

async function startCommandOf(
  path: string,
  manifest: Record<string, unknown>,
  scripts: Record<string, unknown>,
): Promise<string> {
  if (typeof scripts['start'] === 'string') return 'npm start';
  const { main } = manifest;
  if (typeof main === 'string' && main) return `node -- '${main.replaceAll("'", `'\\''`)}'`;
  if (await exists(path, 'server.js')) return 'node server.js';
  throw new UnknownProject(
    'package.json has no start script and no main, and there is no server.js: give a start command.',
  );
}

function parseManifest(text: string): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new UnknownProject('package.json is not JSON.');
  }
  return recordOf(parsed);
}

function recordOf(value: unknown): Record<string, unknown> {
  return value !== null && typeof value === 'object' ? Object.fromEntries(Object.entries(value)) : {};
}

/** A link is not followed: the server may read what the application may not. A pipe must not keep it waiting. */
async function readOwnFile(file: string): Promise<string | null> {
  try {
    await using handle = await open(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const found = await handle.stat();
    if (!found.isFile() || found.size > maxPackageBytes)
      throw new UnknownProject('package.json is not a file of at most 1 MiB.');
    return await handle.readFile('utf8');
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT') return null;
    if (code === 'ELOOP') throw new UnknownProject('package.json is a symbolic link.');
    throw error;
  }
}

async function exists(path: string, name: string): Promise<boolean> {
  try {
    await lstat(join(path, name));
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}
