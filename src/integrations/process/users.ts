import { randomUUID } from 'node:crypto';
import { link, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exists } from '#kernel/db/state-dirs.ts';
import { codeOf } from '#kernel/system-error.ts';

/** One for the machine, whatever folders its servers have. */
const machineFolder = '/var/lib/switchyard-users';

/**
 * Writes down for the whole machine that the users from `userBase` on are those of this host's applications. A claim
 * holds until the host's folder is gone: files of these users are in it, whether a server runs or not.
 * @throws Error when another host has claimed some of them: its applications and these could read each other's files
 */
export async function claimUsers(
  { hostDir, userBase, count }: { readonly hostDir: string; readonly userBase: number; readonly count: number },
  folder = machineFolder,
): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o755 });
  await refuseOverlap();
  const own = join(folder, String(userBase));
  const draft = join(folder, `.${randomUUID()}`);
  await writeFile(draft, hostDir, { mode: 0o600, flag: 'wx' });
  try {
    // Whole or not at all, and by one only.
    await link(draft, own);
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
    await refuseOverlap();
    return;
  } finally {
    await rm(draft, { force: true });
  }
  try {
    // Another one with a base beside this may have looked at the same time.
    await refuseOverlap();
  } catch (error) {
    await rm(own, { force: true });
    throw error;
  }

  async function refuseOverlap(): Promise<void> {
    for (const name of await readdir(folder)) {
      const first = Number(name);
      if (!/^\d+$/.test(name)) continue;
      const claim = join(folder, name);
      const owner = await readFile(claim, 'utf8').catch((error: unknown) => {
        if (codeOf(error) === 'ENOENT') return hostDir; // given up in the meantime
        throw error;
      });
      if (owner === hostDir) continue;
      if (!(await exists(owner))) await rm(claim, { force: true });
      else if (Math.abs(first - userBase) < count)
        throw new Error(
          `The users from ${first} to ${first + count - 1} belong to the applications of ${owner}: set SWITCHYARD_APP_USER_BASE to a number at least ${count} away from ${first}, or remove that folder if it is not used any more.`,
        );
    }
  }
}
