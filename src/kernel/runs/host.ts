import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { isId, newId } from '../ids.ts';

/**
 * The id of this machine, kept in its state folder: what the process driver runs here belongs to it, whichever
 * worker process started it. Several processes that ask at once get the same one.
 */
export async function hostIdOf(stateDir: string): Promise<string> {
  const file = path.join(stateDir, 'host-id');
  try {
    await writeFile(file, newId(), { flag: 'wx', mode: 0o600 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  for (let tries = 0; ; tries++) {
    const id = (await readFile(file, 'utf8')).trim();
    if (isId(id)) return id;
    // Another process made the file and has not written it yet.
    if (tries === 50) throw new Error(`${file} holds no host id`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A host without a sign of life for this long is lost, seconds. */
export const lostAfterS = 30;

export const isLost = ({ lastSeenAt }: { readonly lastSeenAt: Date }): boolean =>
  Date.now() - lastSeenAt.getTime() > lostAfterS * 1000;
