// For the runbook: `node tools/epoch.ts` after the database was restored, recovered to a point in time, or failed over
// with loss. Cursors of the lost history then meet a StreamGap instead of events that they do not belong to. Takes the
// server's own configuration. Servers may run meanwhile: open streams end with the gap.
import pg from 'pg';
import { loadConfig } from '../src/config.ts';
import { acquireEmbeddedPostgres } from '../src/kernel/db/embedded/index.ts';
import { resolveStateDirs } from '../src/kernel/db/state-dirs.ts';
import { raiseEpochs } from '../src/kernel/live/epoch.ts';
import { createLogger } from '../src/kernel/log.ts';

const { database, storage } = loadConfig(process.env);
const given = (database.directUrl ?? database.url)?.reveal();
const embedded = given
  ? null
  : await acquireEmbeddedPostgres({
      ...(await resolveStateDirs({
        stateDir: storage.stateDir,
        ...(storage.sharedDir ? { sharedDir: storage.sharedDir } : {}),
      })),
      log: createLogger('warn'),
    });
const client = new pg.Client({ connectionString: given ?? embedded?.url ?? '' });
try {
  await client.connect();
  console.log(`The history of ${await raiseEpochs(client)} workspaces begins anew.`);
} finally {
  await client.end();
  await embedded?.release();
}
