import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { service } from '#kernel/app.ts';
import { newId } from '#kernel/ids.ts';
import { isAlive, processIdentity } from '#kernel/processes/children.ts';
import { Artifacts, type FileRef } from '#kernel/storage/artifacts.ts';
import { DocumentSettings } from './shared.ts';

/** A folder of a process that is not of this machine's name, and so may be alive, is left behind after this. */
const abandonedAfterMs = 24 * 3600 * 1000;

/** A copy of a file on this host, made when it is first asked for. */
export interface Copy {
  /** @throws {NotFound} {FileDamaged} the signal's reason */
  path(): Promise<string>;
  remove(): Promise<void>;
}

const nameOf = (identity: { pid: number; startTime: string }): string =>
  Buffer.from(JSON.stringify([hostname(), identity.pid, identity.startTime])).toString('base64url');

function identityOf(name: string): { host: string; pid: number; startTime: string } | null {
  try {
    const [host, pid, startTime] = JSON.parse(Buffer.from(name, 'base64url').toString()) as unknown[];
    return typeof host === 'string' && typeof pid === 'number' && typeof startTime === 'string'
      ? { host, pid, startTime }
      : null;
  } catch {
    return null; // not a folder of ours
  }
}

/**
 * Copies of documents' bytes, for the processes that read them. They lie in a folder of the process that made them, so
 * that the next one knows what a killed one left behind.
 */
export const Copies = service('copies of documents', (app) => {
  let own: Promise<string> | undefined;
  const folderOfProcess = async (): Promise<string> => {
    const identity = await processIdentity(process.pid);
    if (!identity) throw new Error('This process is not listed by the system');
    return path.join(app.use(DocumentSettings).folder, nameOf(identity));
  };
  return {
    of(file: FileRef, signal: AbortSignal): Copy {
      let made: Promise<{ folder: string; path: string }> | undefined;
      const make = async () => {
        own ??= folderOfProcess();
        const folder = path.join(await own, newId());
        await mkdir(folder, { recursive: true, mode: 0o700 });
        try {
          return { folder, path: (await app.use(Artifacts).materialise(file, folder, signal)).path };
        } catch (error) {
          await rm(folder, { recursive: true, force: true });
          throw error;
        }
      };
      return {
        path: async () => (await (made ??= make())).path,
        async remove() {
          const copy = await made?.catch(() => null); // it was told where it was asked for
          if (copy) await rm(copy.folder, { recursive: true, force: true });
        },
      };
    },

    /** Removes what processes that are gone have left behind. @returns of how many */
    async sweep(): Promise<number> {
      const { folder } = app.use(DocumentSettings);
      await mkdir(folder, { recursive: true, mode: 0o700 });
      let removed = 0;
      for (const name of await readdir(folder)) {
        const at = path.join(folder, name);
        const identity = identityOf(name);
        if (identity?.host === hostname()) {
          if (await isAlive(identity)) continue;
        } else if (Date.now() - (await stat(at)).mtimeMs < abandonedAfterMs) continue;
        await rm(at, { recursive: true, force: true });
        removed++;
      }
      return removed;
    },
  };
});
