import path from 'node:path';
import type { Values } from './settings.ts';
import type { Config } from './types.ts';

/** The configuration that these values make. `given`: the environment, of which builds get some. */
export function assemble(v: Values, given: ReadonlyMap<string, string>): Config {
  const production = v.NODE_ENV === 'production';
  return {
    mode: v.NODE_ENV,
    production,
    logLevel: v.LOG_LEVEL,
    roles: { api: v.SWITCHYARD_ROLES.includes('api'), worker: v.SWITCHYARD_ROLES.includes('worker') },
    http: {
      host: v.HOST,
      port: v.PORT,
      publicUrl: v.PUBLIC_URL,
      corsOrigins: v.CORS_ORIGINS ?? [],
      trustProxy: v.TRUST_PROXY,
      maxBodyBytes: v.SWITCHYARD_MAX_BODY_BYTES,
    },
    session: { secret: v.SESSION_SECRET, ttlS: v.SESSION_TTL_S, maxAgeS: v.SESSION_MAX_AGE_S },
    accounts: {
      appUrl: v.APP_URL,
      signUpsPerHour: v.SWITCHYARD_SIGN_UPS_PER_HOUR,
      passwordMemoryKib: v.SWITCHYARD_PASSWORD_MEMORY_KIB,
      breachedPasswordsUrl: v.SWITCHYARD_BREACHED_PASSWORDS_URL,
    },
    signIn: {
      github:
        v.GITHUB_CLIENT_ID && v.GITHUB_CLIENT_SECRET
          ? {
              clientId: v.GITHUB_CLIENT_ID,
              clientSecret: v.GITHUB_CLIENT_SECRET,
              url: v.GITHUB_URL,
              apiUrl: v.GITHUB_API_URL,
            }
          : undefined,
      jwtIssuers: v.SWITCHYARD_JWT_ISSUERS ?? [],
    },
    github: {
      apiUrl: v.GITHUB_API_URL,
      app:
        v.GITHUB_APP_ID && v.GITHUB_APP_PRIVATE_KEY
          ? { id: v.GITHUB_APP_ID, privateKey: v.GITHUB_APP_PRIVATE_KEY }
          : undefined,
      webhookSecrets: v.GITHUB_WEBHOOK_SECRETS ?? [],
      webhookRetentionDays: v.SWITCHYARD_WEBHOOK_RETENTION_DAYS,
    },
    llm:
      v.SWITCHYARD_LLM_URL && v.SWITCHYARD_LLM_KEY && v.SWITCHYARD_LLM_MODEL
        ? {
            url: v.SWITCHYARD_LLM_URL,
            key: v.SWITCHYARD_LLM_KEY,
            model: v.SWITCHYARD_LLM_MODEL,
            daily: v.SWITCHYARD_LLM_DAILY,
          }
        : null,
    operators: v.SWITCHYARD_OPERATORS ?? [],
    encryption: {
      keys: v.SWITCHYARD_ENCRYPTION_KEYS,
      keysFile: v.SWITCHYARD_ENCRYPTION_KEYS_FILE,
      kmsKeys: v.SWITCHYARD_ENCRYPTION_KMS_KEYS,
      kmsEndpoint: v.SWITCHYARD_KMS_ENDPOINT,
    },
    mail: { smtpUrl: v.SMTP_URL, from: v.MAIL_FROM },
    database: {
      url: v.DATABASE_URL,
      directUrl: v.DATABASE_DIRECT_URL,
      poolMax: v.DATABASE_POOL_MAX,
      statementTimeoutS: v.SWITCHYARD_STATEMENT_TIMEOUT_S,
    },
    wakeUps: { redisUrl: v.REDIS_URL },
    storage: {
      stateDir: v.SWITCHYARD_STATE_DIR,
      sharedDir: v.SWITCHYARD_SHARED_DIR,
      secret: v.STORAGE_SECRET,
      maxUploadBytes: v.SWITCHYARD_MAX_UPLOAD_BYTES,
      maxOpenUploads: v.SWITCHYARD_MAX_OPEN_UPLOADS,
      maxPendingBytes: v.SWITCHYARD_MAX_PENDING_BYTES,
      s3:
        v.SWITCHYARD_BLOBS === 's3' && v.SWITCHYARD_S3_BUCKET
          ? {
              bucket: v.SWITCHYARD_S3_BUCKET,
              prefix: v.SWITCHYARD_S3_PREFIX,
              region: v.SWITCHYARD_S3_REGION,
              endpoint: v.SWITCHYARD_S3_ENDPOINT,
              pathStyle: v.SWITCHYARD_S3_PATH_STYLE,
              credentials:
                v.SWITCHYARD_S3_ACCESS_KEY_ID && v.SWITCHYARD_S3_SECRET_ACCESS_KEY
                  ? { accessKeyId: v.SWITCHYARD_S3_ACCESS_KEY_ID, secretAccessKey: v.SWITCHYARD_S3_SECRET_ACCESS_KEY }
                  : undefined,
              redirects: v.SWITCHYARD_S3_DOWNLOADS === 'redirect',
            }
          : null,
    },
    graphql: {
      graphiql: v.SWITCHYARD_GRAPHIQL,
      introspection: v.SWITCHYARD_INTROSPECTION,
      compile: v.SWITCHYARD_COMPILE,
      persistedOnly: v.SWITCHYARD_PERSISTED_ONLY,
      sharedExecution: v.SWITCHYARD_SHARED_EXECUTION,
      persistedFile: v.SWITCHYARD_PERSISTED_FILE,
    },
    limits: {
      depth: v.SWITCHYARD_MAX_DEPTH,
      aliases: v.SWITCHYARD_MAX_ALIASES,
      cost: v.SWITCHYARD_MAX_COST,
      tokens: v.SWITCHYARD_MAX_TOKENS,
      batch: v.SWITCHYARD_MAX_BATCH,
      socketsPerActor: v.SWITCHYARD_MAX_SOCKETS_PER_ACTOR,
      subscriptionsPerSocket: v.SWITCHYARD_MAX_SUBSCRIPTIONS_PER_SOCKET,
      messagesPerS: v.SWITCHYARD_MAX_MESSAGES_PER_S,
    },
    rates: {
      store: v.SWITCHYARD_RATES,
      points: v.SWITCHYARD_RATE_POINTS,
      anonymousPoints: v.SWITCHYARD_RATE_POINTS_ANONYMOUS,
    },
    worker: {
      concurrency: v.SWITCHYARD_WORKER_CONCURRENCY,
      runLeaseS: v.SWITCHYARD_RUN_LEASE_S,
      stopGraceS: v.SWITCHYARD_STOP_GRACE_S,
      eventRetentionDays: v.SWITCHYARD_EVENT_RETENTION_DAYS,
    },
    driver: {
      process: v.SWITCHYARD_PROCESS_DRIVER,
      metricsIntervalS: v.SWITCHYARD_METRICS_INTERVAL_S,
      appUserBase: v.SWITCHYARD_APP_USER_BASE,
      appMemoryMb: v.SWITCHYARD_APP_MEMORY_MB,
      maxMemoryMb: v.SWITCHYARD_APP_MEMORY_MAX_MB,
      maxMilliCpus: v.SWITCHYARD_APP_MILLI_CPUS_MAX,
      quotas: {
        maxApplications: v.SWITCHYARD_MAX_APPLICATIONS,
        maxConcurrentDeployments: v.SWITCHYARD_MAX_CONCURRENT_DEPLOYMENTS,
        retainedReleases: v.SWITCHYARD_RETAINED_RELEASES,
        maxDiskMb: v.SWITCHYARD_MAX_DISK_MB,
      },
      minFreeDiskMb: v.SWITCHYARD_MIN_FREE_DISK_MB,
      diskIntervalS: v.SWITCHYARD_DISK_INTERVAL_S,
      docker: {
        mode: v.SWITCHYARD_DOCKER,
        socketPath: v.DOCKER_HOST,
        nodeImage: v.SWITCHYARD_DOCKER_NODE_IMAGE,
        appMilliCpus: v.SWITCHYARD_APP_MILLI_CPUS,
        buildMemoryMb: v.SWITCHYARD_DOCKER_BUILD_MEMORY_MB,
        buildMilliCpus: v.SWITCHYARD_DOCKER_BUILD_MILLI_CPUS,
        patienceS: v.SWITCHYARD_DOCKER_PATIENCE_S,
      },
      ec2:
        v.SWITCHYARD_EC2_INSTANCE_ID && v.SWITCHYARD_EC2_REGION && v.SWITCHYARD_EC2_BUCKET
          ? {
              instanceId: v.SWITCHYARD_EC2_INSTANCE_ID,
              region: v.SWITCHYARD_EC2_REGION,
              bucket: v.SWITCHYARD_EC2_BUCKET,
              address: v.SWITCHYARD_EC2_ADDRESS ?? null,
              socketPath: v.SWITCHYARD_EC2_DOCKER_HOST,
              ssmEndpoint: v.SWITCHYARD_EC2_SSM_ENDPOINT,
              s3Endpoint: v.SWITCHYARD_EC2_S3_ENDPOINT,
            }
          : undefined,
      addressPorts: v.SWITCHYARD_ADDRESS_PORTS,
      instancePorts: v.SWITCHYARD_INSTANCE_PORTS,
      pathDirs: (given.get('PATH') ?? '/usr/local/bin:/usr/bin:/bin')
        .split(path.delimiter)
        .filter((dir) => path.isAbsolute(dir)),
      buildEnvironment: Object.fromEntries(
        (v.SWITCHYARD_BUILD_VARIABLES ?? []).flatMap((name) => {
          const value = given.get(name);
          return value === undefined ? [] : [[name, value]];
        }),
      ),
    },
    documents: {
      maxBytes: v.SWITCHYARD_MAX_DOCUMENT_BYTES,
      maxDocuments: v.SWITCHYARD_MAX_DOCUMENTS,
      maxStoredBytes: v.SWITCHYARD_MAX_DOCUMENTS_BYTES,
      maxStoredCells: v.SWITCHYARD_MAX_STORED_CELLS,
      maxConcurrentExtractions: v.SWITCHYARD_MAX_CONCURRENT_EXTRACTIONS,
      memoryMb: v.SWITCHYARD_EXTRACTION_MEMORY_MB,
      timeoutS: v.SWITCHYARD_EXTRACTION_TIMEOUT_S,
      external: v.SWITCHYARD_EXTRACTOR_URL
        ? { url: v.SWITCHYARD_EXTRACTOR_URL, key: v.SWITCHYARD_EXTRACTOR_KEY }
        : undefined,
    },
    scanning: {
      advisoriesPath: v.SWITCHYARD_ADVISORIES,
      advisoryRegistryUrl: v.SWITCHYARD_ADVISORY_REGISTRY,
      trivy: v.SWITCHYARD_TRIVY,
    },
    outbound: { gitProtocols: v.SWITCHYARD_GIT_PROTOCOLS, allowLoopback: v.SWITCHYARD_ALLOW_LOOPBACK },
    telemetry: {
      otlpEndpoint: v.OTEL_EXPORTER_OTLP_ENDPOINT,
      metricsToken: v.METRICS_TOKEN,
      metricsOpen: !production && v.METRICS_TOKEN === undefined,
    },
  };
}
