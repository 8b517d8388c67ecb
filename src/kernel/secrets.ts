import { randomBytes, randomUUID } from 'node:crypto';
import { link, mkdir, open, readFile, stat, unlink } from 'node:fs/promises';
import path from 'node:path';

/** 32 bytes in base64url without padding. */
const secretPattern = /^[A-Za-z0-9_-]{43}$/;

const hasCode = (error: unknown, code: string): boolean =>
  error instanceof Error && 'code' in error && error.code === code;

/**
 * The secret of that name of this host: 32 random bytes in base64url (43 characters), generated at the first call and
 * read afterwards from `<stateDir>/secrets/<name>` (mode 0600, folder 0700). Processes that call at once get the same
 * one, and a crash leaves either nothing or the whole secret.
 *
 * @param stateDir absolute folder of the host's state; made if it is not there
 * @param name lower-case letters, digits and hyphens
 * @throws Error when the file holds something else, or other users can read it: it is never replaced
 */
export async function ensureSecret(stateDir: string, name: string): Promise<string> {
  if (!/^[a-z][a-z0-9-]{0,63}$/.test(name)) throw new TypeError(`Not a name for a secret: ${JSON.stringify(name)}`);
  const folder = path.join(stateDir, 'secrets');
  const file = path.join(folder, name);
  const existing = await readSecret(file);
  if (existing !== undefined) return existing;

  await mkdir(folder, { recursive: true, mode: 0o700 });
  const temporary = path.join(folder, `.${name}.${randomUUID()}`);
  try {
    const handle = await open(temporary, 'wx', 0o600);
    try {
      await handle.writeFile(randomBytes(32).toString('base64url'));
      await handle.sync();
    } finally {
      await handle.close();
    }
    // Unlike rename, link does not replace what another process has put there in the meantime.
    await link(temporary, file).catch((error: unknown) => {
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  } finally {
    await unlink(temporary).catch((error: unknown) => {
      if (!hasCode(error, 'ENOENT')) throw error;
    });
  }
  await syncFolder(folder);
  const secret = await readSecret(file);
  if (secret === undefined) throw new Error(`${file} was removed while it was being made`);
  return secret;
}

async function readSecret(file: string): Promise<string | undefined> {
  try {
    const text = await readFile(file, 'utf8');
    if (!secretPattern.test(text)) throw new Error(`${file} does not hold a secret of 43 base64url characters`);
    // Group bits are left alone: volumes of container platforms set them.
    if (((await stat(file)).mode & 0o007) !== 0) throw new Error(`${file} can be read by every user: chmod 600 it`);
    return text;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Makes the new name in the folder survive a power cut. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
