import { createServer } from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Config } from '../config.ts';
import { keepCompiled } from '../kernel/compile-cache.ts';

const begun = performance.now();
keepCompiled();
const { ConfigError, loadConfig } = await import('../config.ts');

/** Which documents GraphiQL opens with. */
const graphiqlDocument = `# Everything here runs as the demo user. Try the query, then the subscription (▶ asks which).
query Applications {
  workspace(slug: "demo") {
    id
    applications(first: 5) {
      nodes {
        id
        name
        address
        activeRelease { commitSha activatedAt }
        deployments(first: 5) {
          totalCount
          nodes { id status phase statusReason commitSha commitSubject }
        }
      }
    }
  }
}

# Start it, then deploy (below) and watch.
subscription Watch($workspaceId: ID!) {
  workspaceEvents(workspaceId: $workspaceId) {
    __typename
    ... on Event { cursor seq type from to at run { id status } }
    ... on StreamCheckpoint { cursor }
    ... on StreamGap { reason resumeAfter }
  }
}

mutation Deploy($applicationId: ID!) {
  createDeployment(input: { applicationId: $applicationId }) {
    __typename
    ... on CreateDeploymentSuccess { deployment { id status queuePosition } eventCursor }
    ... on Error { code message }
  }
}
`;

const seconds = () => `${((performance.now() - begun) / 1000).toFixed(1)} s`.padStart(7);
const say = (text = '') => process.stdout.write(`${text}\n`);
const title = (text: string) => say(`\n${seconds()}  ${text}`);

/** The configured port if it is free, else any. */
async function freePort(config: Config): Promise<string> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve('0'));
    probe.listen(config.http.port, config.http.host, () => probe.close(() => resolve(String(config.http.port))));
  });
}

async function main(): Promise<number> {
  const once = process.argv.includes('--once');
  const env: NodeJS.ProcessEnv = { LOG_LEVEL: 'warn', ...process.env };
  const usual = loadConfig(env);
  const stateDir = env['SWITCHYARD_STATE_DIR'] ? usual.storage.stateDir : path.join(usual.storage.stateDir, 'demo');
  const config = loadConfig({
    // Not those of a server that is installed here, too, and still among those that a container has.
    SWITCHYARD_APP_USER_BASE: '57184',
    // Base images come from a registry, and this needs nothing but npm and git.
    SWITCHYARD_DOCKER: 'off',
    ...env,
    SWITCHYARD_STATE_DIR: stateDir,
    PORT: await freePort(usual),
  });

  say('Switchyard demo: one process with PostgreSQL, API and worker. Nothing outside of this machine is used.');
  const [{ start }, { ensureSecret }, { resolveStateDirs }] = await Promise.all([
    import('../start.ts'),
    import('../kernel/secrets.ts'),
    import('../kernel/db/state-dirs.ts'),
  ]);
  const dirs = await resolveStateDirs({
    stateDir,
    ...(config.storage.sharedDir ? { sharedDir: config.storage.sharedDir } : {}),
  });
  const password = await ensureSecret(stateDir, 'demo-password');
  const graphiql = { defaultQuery: graphiqlDocument, headers: '' };
  const running = await start(config, { graphiql, endApplications: true });
  const interrupted = new Promise<'signal'>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve('signal'));
  });
  try {
    const { tour } = await import('./tour.ts');
    const outcome = await Promise.race([
      tour({
        url: `${running.url}/graphql`,
        password,
        repositoryDir: path.join(dirs.sharedDir, 'demo-repository'),
        sample: fileURLToPath(new URL('../../examples/hello-node', import.meta.url)),
        searchPath: config.driver.pathDirs.join(path.delimiter),
        say,
        title,
      }),
      interrupted,
      running.lost,
    ]);
    if (outcome instanceof Error) throw outcome;
    if (outcome === 'signal') return 130;
    graphiql.headers = JSON.stringify({ authorization: `Bearer ${outcome.token}` });
    title('Everything is as promised.');
    if (once) return 0;
    say(`
  GraphiQL     ${running.url}/graphql       (a query, a subscription and a mutation are there, signed in)
  variables    ${JSON.stringify({ workspaceId: outcome.workspaceId, applicationId: outcome.applicationId })}
  application  ${outcome.address}
  account      ${outcome.email}   password  ${password}

  Ctrl-C ends the server, the database and the application. The next start finds everything again.`);
    await interrupted;
    say('\nStopping …');
    return 0;
  } finally {
    await running.stop();
  }
}

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    console.error(error instanceof ConfigError ? error.message : error);
    process.exitCode = 1;
  },
);
