import { readFile } from 'node:fs/promises';
import type { Config } from './config.ts';
import { startDeployments, type DeploymentsHost } from './domains/deployments/index.ts';
import { startDocuments } from './domains/documents/index.ts';
import {
  AccountSettings,
  authRoutes,
  connectOutside,
  External,
  Outside,
  type OutsideOptions,
} from './domains/identity/index.ts';
import { connectGitHub, webhookRoutes } from './domains/repositories/index.ts';
import { createLanguageModel, limits as llmLimits } from './integrations/llm/index.ts';
import { createBreachList, limits as breachListLimits } from './integrations/pwned-passwords/index.ts';
import { services, type App, type Service } from './kernel/app.ts';
import { Denials } from './kernel/audit/denials.ts';
import { Actors } from './kernel/auth/actors.ts';
import { createOriginIds } from './kernel/auth/origins.ts';
import { createSessionTokens } from './kernel/auth/session-tokens.ts';
import { SessionSettings } from './kernel/auth/sessions.ts';
import { CompiledRows } from './kernel/compiler/row-texts.ts';
import { tokenOf } from './kernel/crypto.ts';
import { createDatabase, type Database } from './kernel/db/client.ts';
import { acquireEmbeddedPostgres, type EmbeddedPostgres } from './kernel/db/embedded/index.ts';
import { migrate } from './kernel/db/migrate.ts';
import { resolveStateDirs } from './kernel/db/state-dirs.ts';
import { createTransact } from './kernel/db/transact.ts';
import { startHttpServer, type HttpServer } from './kernel/http/server.ts';
import { Jobs } from './kernel/jobs/jobs.ts';
import { Hub } from './kernel/live/hub.ts';
import { SharedExecution } from './kernel/live/audiences.ts';
import { PostgresWakeUps, type WakeUps } from './kernel/live/wakeups.ts';
import { createLogger, type Logger } from './kernel/log.ts';
import { outboxRoute } from './kernel/mail/outbox-route.ts';
import { loggingTransport, noTransport, Transport, type MailTransport } from './kernel/mail/transport.ts';
import { Llm } from './kernel/llm.ts';
import { createOutboundPolicy } from './kernel/outbound.ts';
import { createOutboundFetch } from './kernel/outbound-fetch.ts';
import { BudgetSettings } from './kernel/rates/budgets.ts';
import { Counters, keyHash, memoryCounter, postgresCounter, withFallback } from './kernel/rates/counters.ts';
import { Executor } from './kernel/runs/executor.ts';
import { checkKeys } from './kernel/sealing/columns.ts';
import { bothRings, configuredKeys, generatedKey, type KeyRing } from './kernel/sealing/key-ring.ts';
import { parseKeys, type EncryptionKey } from './kernel/sealing/keys.ts';
import { createSealing, Sealing } from './kernel/sealing/sealing.ts';
import { ensureSecret } from './kernel/secrets.ts';
import { Artifacts } from './kernel/storage/artifacts.ts';
import { createDiskBlobStore } from './kernel/storage/disk.ts';
import { createStorageHandler } from './kernel/storage/http.ts';
import type { BlobStore } from './kernel/storage/store.ts';
import { createStorageUrls } from './kernel/storage/signed-urls.ts';
import { createMetrics } from './kernel/telemetry/metrics.ts';
import { currentTraceparent, startTelemetry } from './kernel/telemetry/trace.ts';
import { hostIdOf } from './kernel/runs/host.ts';
import './kernel/maintenance.ts';
import { schema } from './schema.ts';

/** A server that runs in this process. */
export interface Running {
  readonly app: App;
  /** Address of the API; null without the role `api`. */
  readonly url: string | null;
  readonly databaseUrl: string;
  /** Resolves when the embedded database was lost, which ends the server. */
  readonly lost: Promise<Error>;
  readonly host: DeploymentsHost | null;
  readonly executor: Executor | null;
  /** Ends in the order: new requests, streams, runs, jobs, database. Safe to call twice. */
  stop(): Promise<void>;
}

export interface StartOptions {
  readonly log?: Logger;
  /** What GraphiQL opens with. */
  readonly graphiql?: { readonly defaultQuery?: string; readonly headers?: string };
  /** Ends the applications of this host when the server stops; otherwise they go on serving. */
  readonly endApplications?: boolean;
  readonly hubPollMs?: number;
  /** How other systems that vouch for people are reached; for tests. */
  readonly outside?: Partial<OutsideOptions>;
}

/** Starts a server with the configured roles: database, migrations, API, worker. Undoes what it did when it fails. */
export async function start(config: Config, options: StartOptions = {}): Promise<Running> {
  const undo: (() => Promise<unknown> | void)[] = [];
  let stopping: Promise<void> | null = null;
  const stop = () => {
    stopping ??= (async () => {
      for (const step of undo.toReversed()) await step();
    })();
    return stopping;
  };
  try {
    return await begin(config, options, undo, stop);
  } catch (error) {
    await stop();
    throw error;
  }
}

async function begin(
  config: Config,
  options: StartOptions,
  undo: (() => Promise<unknown> | void)[],
  stop: () => Promise<void>,
): Promise<Running> {
  const log = options.log ?? createLogger(config.logLevel);
  undo.push(await startTelemetry({ endpoint: config.telemetry.otlpEndpoint }));
  const dirs = await resolveStateDirs({
    stateDir: config.storage.stateDir,
    ...(config.storage.sharedDir ? { sharedDir: config.storage.sharedDir } : {}),
  });

  let embedded: EmbeddedPostgres | null = null;
  if (!config.database.url) {
    embedded = await acquireEmbeddedPostgres({ ...dirs, log });
    const lease = embedded;
    undo.push(() => lease.release());
  }
  const url = config.database.url?.reveal() ?? embedded?.url ?? '';
  const directUrl = config.database.directUrl?.reveal() ?? url;
  await migrate(directUrl, { log });

  const { poolMax, statementTimeoutS } = config.database;
  const database = createDatabase({
    url,
    directUrl,
    poolMax,
    applicationName: 'switchyard',
    // A worker alone has no requests.
    ...(config.roles.api ? { statementTimeoutS } : {}),
  });
  undo.push(() => database.close());
  await database.check();
  const wakeUps = await wakeUpsOf(config, database.pool, directUrl, log);
  const metrics = createMetrics();
  metrics.observeDatabasePool(() => ({
    total: database.pool.totalCount,
    idle: database.pool.idleCount,
    waiting: database.pool.waitingCount + database.reader.waiting,
  }));
  const hub = new Hub({
    pool: database.pool,
    named: !database.pooled,
    wakeUps,
    log,
    metrics,
    ...(options.hubPollMs ? { pollMs: options.hubPollMs } : {}),
  });
  const { worker } = config.roles;
  const jobs = new Jobs({ directUrl, worker, log, name: worker ? 'worker' : 'api', wakeUps });
  const sessionSecret = config.session.secret?.reveal() ?? (await ensureSecret(dirs.stateDir, 'session'));
  const tokens = createSessionTokens({
    secret: sessionSecret,
    ttlS: config.session.ttlS,
    // Not the address: several API processes, and the same one on another port, accept each other's sessions.
    issuer: 'switchyard',
  });
  let http: HttpServer | null = null;
  const serverUrl = () => http?.url ?? config.http.publicUrl ?? '';
  const storageUrls = createStorageUrls({
    secret: config.storage.secret?.reveal() ?? (await ensureSecret(dirs.stateDir, 'storage')),
    baseUrl: serverUrl,
  });

  const sealing = createSealing(await keyRing(config, dirs.stateDir));
  const mailTransport = await transportOf(config, log);
  const blobs = await blobsOf(config, dirs.stateDir, log, undo);
  const counters = await countersOf(config, database.pool, log);
  undo.push(() => counters.close());
  const provided = new Map<Service<unknown>, unknown>([
    [BudgetSettings, config.rates],
    [CompiledRows, { on: config.graphql.compile }],
    [SharedExecution, { on: config.graphql.sharedExecution }],
    [Counters, { ...counters, hash: keyHash(sessionSecret) }],
    [Sealing, sealing],
    [Transport, mailTransport],
    [
      AccountSettings,
      {
        appUrl: () => config.accounts.appUrl ?? config.http.publicUrl ?? http?.url ?? '',
        isBreached: config.accounts.breachedPasswordsUrl
          ? createBreachList({
              url: config.accounts.breachedPasswordsUrl,
              fetch: operatorFetch(config, breachListLimits),
            })
          : null,
        signUpsPerHour: config.accounts.signUpsPerHour,
        receiptOf: (...words) => tokenOf(sessionSecret, 'receipt', ...words),
        passwordMemoryKib: config.accounts.passwordMemoryKib,
      } satisfies AccountSettings,
    ],
    [
      Outside,
      connectOutside({
        log,
        allowLoopback: config.outbound.allowLoopback,
        github: config.signIn.github
          ? { ...config.signIn.github, clientSecret: config.signIn.github.clientSecret.reveal() }
          : null,
        issuers: config.signIn.jwtIssuers,
        baseUrl: serverUrl,
        ...options.outside,
      }),
    ],
    [
      Llm,
      {
        model: config.llm
          ? createLanguageModel({
              ...config.llm,
              key: config.llm.key.reveal(),
              fetch: operatorFetch(config, llmLimits),
            })
          : null,
        daily: config.llm?.daily ?? 0,
      },
    ],
    [SessionSettings, { tokens, ttlS: config.session.ttlS, maxAgeS: config.session.maxAgeS }],
  ]);
  const app: App = {
    log,
    database,
    db: database.db,
    transact: createTransact({
      database,
      traceparent: currentTraceparent,
      originIds: createOriginIds(sessionSecret),
      onAppended(events) {
        for (const workspaceId of new Set(events.map((event) => event.workspaceId)))
          wakeUps.publish(`w:${workspaceId}`);
        for (const event of events) metrics.eventsAppended.inc({ type: event.type });
      },
    }),
    actors: new Actors({
      pool: database.pool,
      named: !database.pooled,
      tokens,
      log,
      operators: new Set(config.operators),
      external: {
        claims: (token) => app.use(Outside).issuers.claims(token),
        verify: (token, origin) => app.use(External).byToken(token, origin),
      },
    }),
    wakeUps,
    hub,
    jobs,
    blobs,
    storageUrls,
    metrics,
    limits: {
      maxUploadBytes: config.storage.maxUploadBytes,
      maxOpenUploads: config.storage.maxOpenUploads,
      maxPendingBytes: config.storage.maxPendingBytes,
      runLeaseS: config.worker.runLeaseS,
      eventRetentionDays: config.worker.eventRetentionDays,
    },
    use: (service) => use(service),
  };
  const use = services(provided)(app);

  connectGitHub(
    app,
    provided,
    {
      apiUrl: config.github.apiUrl,
      app: config.github.app ? { id: config.github.app.id, privateKey: config.github.app.privateKey.reveal() } : null,
      webhookSecrets: config.github.webhookSecrets.map((secret) => secret.reveal()),
      payloadDays: config.github.webhookRetentionDays,
      allowLoopback: config.outbound.allowLoopback,
    },
    { baseUrl: serverUrl, appUrl: () => config.accounts.appUrl ?? serverUrl() },
  );
  if (config.roles.api && config.github.webhookSecrets.length === 0)
    log.warn('NO WEBHOOK SECRET: GITHUB_WEBHOOK_SECRETS is not set, so /webhooks/github answers 401 to everything');

  const documents = await startDocuments(app, provided, {
    ...config.documents,
    stateDir: dirs.stateDir,
    workers: config.worker.concurrency,
    allowLoopback: config.outbound.allowLoopback,
  });
  undo.push(() => documents.stop());

  const checking = new AbortController();
  let checked: Promise<void> | undefined;
  undo.push(async () => {
    checking.abort();
    await checked;
  });
  undo.push(() => app.use(Denials).flush());
  // Before the jobs: it says what is wrong with an address that is a pooler's.
  await hub.start();
  undo.push(async () => {
    hub.stop();
    await wakeUps.close();
  });
  await jobs.start();
  undo.push(() => jobs.stop());

  const host = await startDeployments(app, provided, {
    hostId: await hostIdOf(dirs.stateDir),
    sharedDir: dirs.sharedDir,
    databaseUrl: directUrl,
    worker: config.roles.worker,
    driver: config.driver,
    scanning: config.scanning,
    outbound: config.outbound,
    metricsMs: config.driver.metricsIntervalS * 1000,
    diskMs: config.driver.diskIntervalS * 1000,
    keepsApplications: !options.endApplications,
  });
  undo.push(() => host.stop({ endApplications: options.endApplications ?? false }));

  let executor: Executor | null = null;
  if (config.roles.worker) {
    executor = new Executor(app, { hostId: host.hostId, slots: config.worker.concurrency });
    const running = executor;
    running.start();
    await jobs.work(app, {
      hostId: host.hostId,
      slots: config.worker.concurrency,
      executeRun: (runId) => running.execute(runId),
    });
    undo.push(async () => {
      await jobs.pauseRuns();
      await running.stop(config.worker.stopGraceS * 1000);
    });
    log.info({ workerId: running.workerId, hostId: host.hostId }, 'worker ready');
  }

  if (config.roles.api) {
    const secureCookies = config.production || (config.http.publicUrl?.startsWith('https:') ?? false);
    http = await startHttpServer({
      app,
      schema,
      host: config.http.host,
      port: config.http.port,
      publicUrl: config.http.publicUrl,
      corsOrigins: config.http.corsOrigins,
      trustProxy: config.http.trustProxy,
      maxBodyBytes: config.http.maxBodyBytes,
      secureCookies,
      graphql: {
        introspection: config.graphql.introspection,
        compile: config.graphql.compile,
        graphiql: config.graphql.graphiql ? (options.graphiql ?? {}) : null,
        persisted: config.graphql.persistedFile
          ? { documents: await readDocuments(config.graphql.persistedFile), only: config.graphql.persistedOnly }
          : null,
      },
      limits: config.limits,
      storage: createStorageHandler({
        store: app.blobs,
        urls: storageUrls,
        maxUploadBytes: config.storage.maxUploadBytes,
        onUploaded: (key, result) => app.use(Artifacts).uploaded(key, result),
        onPart: (...part) => app.use(Artifacts).receivePart(...part),
        log,
      }),
      routes: [
        ...authRoutes(app, { secureCookies, baseUrl: serverUrl }),
        ...webhookRoutes(app),
        ...(mailTransport.mode === 'keeps' && isLoopback(config.http.host) ? [outboxRoute(app)] : []),
      ],
      checks: {
        database: async () => void (await database.pool.query('select 1')),
        live: async () => hub.check(),
      },
      metrics: config.telemetry.metricsToken
        ? { token: config.telemetry.metricsToken.reveal() }
        : config.telemetry.metricsOpen
          ? 'open'
          : null,
    });
    const server = http;
    undo.push(() => server.close(5000));
    log.info({ url: `${server.url}/graphql`, roles: config.roles }, 'listening');
  }

  // It reads all that is sealed: nobody waits for it.
  checked = database
    .unhurried(() => checkKeys({ pool: database.pool, sealing, log, signal: checking.signal }))
    .catch((error: unknown) =>
      log.error({ err: error }, 'the keys of the values that are sealed could not be checked'),
    );

  return {
    app,
    url: http?.url ?? null,
    databaseUrl: url,
    lost: embedded?.lost ?? new Promise(() => undefined),
    host,
    executor,
    stop,
  };
}

/** Who counts for the limits. Without Redis, what is rare counts for all processes in PostgreSQL in any case. */
async function countersOf(config: Config, pool: Database['pool'], log: Logger) {
  const throttles = postgresCounter(pool);
  const { redisUrl } = config.wakeUps;
  if (config.rates.store !== 'redis' || !redisUrl) {
    return {
      budgets: config.rates.store === 'postgresql' ? throttles : memoryCounter(),
      throttles,
      close: () => undefined,
    };
  }
  const { redisCounter } = await import('./integrations/redis/rates.ts');
  const redis = redisCounter({ url: redisUrl.reveal(), log });
  return {
    budgets: withFallback(redis, memoryCounter(), log),
    throttles: withFallback(redis, throttles, log),
    close: () => redis.close(),
  };
}

/** Where files are. @throws {BucketUnusable} */
async function blobsOf(
  config: Config,
  stateDir: string,
  log: Logger,
  undo: (() => Promise<unknown> | void)[],
): Promise<BlobStore> {
  const { s3 } = config.storage;
  if (!s3) return createDiskBlobStore(stateDir);
  const { createS3BlobStore } = await import('./integrations/s3/index.ts');
  const { credentials, ...where } = s3;
  const store = createS3BlobStore({
    ...where,
    credentials: credentials && {
      accessKeyId: credentials.accessKeyId,
      secretAccessKey: credentials.secretAccessKey.reveal(),
    },
    log,
  });
  undo.push(() => store.close());
  await store.check();
  return store;
}

/** Keys in KMS, if there are any, before those of the configuration. @throws {KmsUnavailable} */
async function keyRing(config: Config, stateDir: string): Promise<KeyRing> {
  const { keys, keysFile, kmsKeys, kmsEndpoint } = config.encryption;
  const configured = async () => configuredKeys(await encryptionKeys(config, stateDir));
  if (!kmsKeys) return configured();
  const { createAwsKms } = await import('./integrations/aws-kms/index.ts');
  const kms = createAwsKms({ keys: kmsKeys, endpoint: kmsEndpoint, fetch: operatorFetch(config, { timeoutMs: 3000 }) });
  await kms.check();
  if (!keys && !keysFile) return kms;
  const older = await configured();
  const twice = kmsKeys.find(({ kid }) => older.knows(kid));
  if (twice) throw new Error(`SWITCHYARD_ENCRYPTION_KMS_KEYS: ${twice.kid} is the id of a configured key, too`);
  return bothRings(kms, older);
}

/** For what the operator configured, which may stand beside this server. */
const operatorFetch = (config: Config, bounds: { readonly timeoutMs: number; readonly maxBytes?: number }) =>
  createOutboundFetch({
    policy: createOutboundPolicy({ allowLoopback: config.outbound.allowLoopback, allowPrivate: true }),
    ...bounds,
  });

/** The keys of the configuration, of the file that it names, or this host's own. */
async function encryptionKeys(config: Config, stateDir: string): Promise<readonly EncryptionKey[]> {
  const { keys, keysFile } = config.encryption;
  if (!keys && !keysFile) return [generatedKey(await ensureSecret(stateDir, 'encryption'))];
  const parsed = parseKeys(keys?.reveal() ?? (await readFile(keysFile ?? '', 'utf8')));
  if (typeof parsed === 'string') throw new Error(`${keysFile ?? 'SWITCHYARD_ENCRYPTION_KEYS'}: ${parsed}`);
  return parsed;
}

async function wakeUpsOf(config: Config, pool: Database['pool'], directUrl: string, log: Logger): Promise<WakeUps> {
  const { redisUrl } = config.wakeUps;
  if (!redisUrl) return new PostgresWakeUps({ pool, directUrl, log });
  const { RedisWakeUps } = await import('./integrations/redis/wakeups.ts');
  return new RedisWakeUps({ url: redisUrl.reveal(), log });
}

async function transportOf(config: Config, log: Logger): Promise<MailTransport> {
  const { smtpUrl, from } = config.mail;
  if (smtpUrl && from) {
    const { createSmtpTransport } = await import('./integrations/smtp/index.ts');
    return createSmtpTransport({ url: smtpUrl.reveal(), from });
  }
  if (!config.production) return loggingTransport(log);
  log.error('NO MAIL: SMTP_URL is not set, so invitations, verifications and password resets are refused');
  return noTransport;
}

/** Whether a host name that is listened on is this machine's only. */
const isLoopback = (host: string): boolean => ['127.0.0.1', '::1', 'localhost'].includes(host);

/** A JSON object: id → document. */
async function readDocuments(file: string): Promise<ReadonlyMap<string, string>> {
  const parsed: unknown = JSON.parse(await readFile(file, 'utf8'));
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw new Error(`${file} must hold a JSON object: id → document`);
  return new Map(
    Object.entries(parsed).map(([id, document]) => {
      if (typeof document !== 'string') throw new Error(`${file}: the document ${id} is no text`);
      return [id, document];
    }),
  );
}
