import { chown, rm } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, vi } from 'vitest';
import { createLogger } from '#kernel/log.ts';
import type { Driver } from '../../../src/domains/deployments/service/driver.ts';
import { createProcessDriver, createProcessPort, type ProcessDriver } from '../../../src/integrations/process/index.ts';
import { asRoot } from '../../support/embedded.ts';
import { testFolder } from '../../support/server.ts';
import { conformance, processListing, type Subject } from './conformance.ts';

vi.setConfig({ testTimeout: 60_000 });
process.umask(0o022);

let hostDir: string;
let folders: ProcessDriver;
const create = () =>
  createProcessDriver({
    hostDir,
    userBase: 3_000_000,
    nodeBinary: process.execPath,
    pathDirs: (process.env['PATH'] ?? '').split(path.delimiter).filter((one) => path.isAbsolute(one)),
    limits: { memoryMb: 512, maxOpenFiles: 1024, maxProcesses: 200 },
    instancePorts: { from: 17_000, to: 17_099 },
    log: createLogger('silent'),
  });
beforeAll(async () => {
  hostDir = path.join(await testFolder(), 'host');
  folders = await create();
});
afterAll(async () => {
  // Only a failed test leaves any.
  for (const { pid } of await folders.listProcesses()) process.kill(pid, 'SIGKILL');
  await rm(path.dirname(hostDir), { recursive: true, force: true });
});

conformance(async (): Promise<Subject> => {
  const driver: Driver = createProcessPort(folders);
  return {
    driver,
    again: async () => createProcessPort(await create()),
    async checkout({ applicationId, runId, attempt, userSlot }) {
      const { path: folder } = await folders.prepare({ applicationId, name: `${runId}.${attempt}`, userSlot });
      const user = folders.userOf(userSlot);
      if (asRoot && user) await chown(folder, user.uid, user.gid);
      return folder;
    },
    listenOn: '127.0.0.1',
    confines: false,
    listing: processListing,
  };
});
