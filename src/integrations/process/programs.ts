import { randomUUID } from 'node:crypto';
import { access, chmod, constants, copyFile, mkdir, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { spawnRecorded } from '#kernel/processes/children.ts';
import { codeOf } from '#kernel/system-error.ts';
import type { ProcessDriverOptions } from './contract.ts';

/** The node binary by a path that the applications' users can execute; a copy in the host's folder if need be. */
export async function reachableNode({ hostDir, nodeBinary }: ProcessDriverOptions, uid: number): Promise<string> {
  if (!(await canDo(uid, hostDir, ['test', '-x', join(hostDir, 'applications')]))) {
    throw new Error(
      `User ${uid} cannot reach ${hostDir}: its folders need mode 0711, or the server cannot switch users.`,
    );
  }
  if (await canDo(uid, hostDir, [nodeBinary, '--version'])) return nodeBinary;
  const copy = join(hostDir, 'bin', 'node');
  await mkdir(dirname(copy), { recursive: true });
  await chmod(dirname(copy), 0o755);
  const [from, there] = await Promise.all([stat(nodeBinary), stat(copy).catch(absent)]);
  if (there?.size !== from.size || there.mtimeMs < from.mtimeMs) {
    const fresh = `${copy}.${randomUUID()}`;
    await copyFile(nodeBinary, fresh, constants.COPYFILE_FICLONE);
    await chmod(fresh, 0o755);
    await rename(fresh, copy);
  }
  if (!(await canDo(uid, hostDir, [copy, '--version']))) throw new Error(`User ${uid} cannot execute ${copy}.`);
  return copy;
}

/** Whether a user can execute a command. */
async function canDo(uid: number, cwd: string, [command = '', ...args]: readonly string[]): Promise<boolean> {
  try {
    const { exited } = await spawnRecorded({
      command,
      args,
      cwd,
      env: { PATH: '/usr/bin:/bin' },
      uid,
      gid: uid,
      stdio: ['ignore', 'ignore', 'ignore'],
      record: () => Promise.resolve(),
    });
    return (await exited).exitCode === 0;
  } catch (error) {
    if (codeOf(error) === 'EPERM') return false;
    throw error;
  }
}

/** Nothing in place of what is not there. */
export function absent(error: unknown): null {
  if (codeOf(error) === 'ENOENT') return null;
  throw error;
}

/** Where a program is, in the first of the folders that has it; null: in none. */
export async function findProgram(name: string, dirs: readonly string[]): Promise<string | null> {
  for (const dir of dirs) {
    const path = join(dir, name);
    try {
      await access(path, constants.X_OK);
      return path;
    } catch (error) {
      if (!['ENOENT', 'EACCES', 'ENOTDIR'].includes(String(codeOf(error)))) throw error;
    }
  }
  return null;
}
