import type { KmsKey } from '../kernel/sealing/keys.ts';
import type { PortRange } from './deployments.ts';
import type { LogLevel } from './general.ts';
import type { Mode, Secret } from './kit.ts';
import type { MailSender } from './mail.ts';
import type { GitProtocol } from './outbound.ts';
import type { JwtIssuer } from './sign-in.ts';

/** The whole configuration; frozen, all the way down. `undefined` means: not set, and there is no default. */
export interface Config {
  readonly mode: Mode;
  readonly production: boolean;
  readonly logLevel: LogLevel;
  readonly roles: { readonly api: boolean; readonly worker: boolean };
  readonly http: {
    readonly host: string;
    /** 0: the system chooses. */
    readonly port: number;
    /** Without trailing slash. Undefined only with port 0: then it follows from the port listened on. */
    readonly publicUrl: string | undefined;
    readonly corsOrigins: readonly string[];
    /** Number of proxies in front. */
    readonly trustProxy: number;
    readonly maxBodyBytes: number;
  };
  readonly session: {
    /** Undefined outside production: generate one with `ensureSecret(stateDir, 'session')`. */
    readonly secret: Secret | undefined;
    readonly ttlS: number;
    /** From signing in, however often the session is renewed. */
    readonly maxAgeS: number;
  };
  readonly accounts: {
    /** Undefined: the server's own. Without trailing slash. */
    readonly appUrl: string | undefined;
    /** Per network. */
    readonly signUpsPerHour: number;
    readonly passwordMemoryKib: number;
    /** Undefined: passwords are not compared with those of breaches. */
    readonly breachedPasswordsUrl: string | undefined;
  };
  readonly signIn: {
    /** Undefined: nobody signs in with GitHub. */
    readonly github:
      | {
          readonly clientId: string;
          readonly clientSecret: Secret;
          readonly url: string;
          readonly apiUrl: string;
        }
      | undefined;
    readonly jwtIssuers: readonly JwtIssuer[];
  };
  readonly github: {
    readonly apiUrl: string;
    /** Undefined: there is no App. */
    readonly app: { readonly id: string; readonly privateKey: Secret } | undefined;
    /** At most two. */
    readonly webhookSecrets: readonly Secret[];
    readonly webhookRetentionDays: number;
  };
  /** E-mail addresses, lower case. */
  readonly operators: readonly string[];
  /** One of them at most; neither only outside production: generate one with `ensureSecret(stateDir, 'encryption')`. */
  readonly encryption: {
    readonly keys: Secret | undefined;
    readonly keysFile: string | undefined;
    readonly kmsKeys: readonly KmsKey[] | undefined;
    readonly kmsEndpoint: string | undefined;
  };
  readonly mail: {
    readonly smtpUrl: Secret | undefined;
    /** Set when `smtpUrl` is. */
    readonly from: MailSender | undefined;
  };
  readonly database: {
    /** Undefined: embedded. */
    readonly url: Secret | undefined;
    /** Undefined exactly when `url` is. */
    readonly directUrl: Secret | undefined;
    readonly poolMax: number;
    readonly statementTimeoutS: number;
  };
  readonly wakeUps: { readonly redisUrl: Secret | undefined };
  readonly storage: {
    /** Absolute; may not exist yet. */
    readonly stateDir: string;
    /** Undefined: chosen when the folders are made (`resolveStateDirs`). */
    readonly sharedDir: string | undefined;
    /** Undefined outside production: generate one with `ensureSecret(stateDir, 'storage')`. */
    readonly secret: Secret | undefined;
    readonly maxUploadBytes: number;
    readonly maxOpenUploads: number;
    readonly maxPendingBytes: number;
    /** Null: files are in the state folder. */
    readonly s3: {
      readonly bucket: string;
      readonly prefix: string | undefined;
      readonly region: string;
      readonly endpoint: string | undefined;
      readonly pathStyle: boolean;
      /** Undefined: those that the SDK finds. */
      readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: Secret } | undefined;
      readonly redirects: boolean;
    } | null;
  };
  readonly graphql: {
    readonly graphiql: boolean;
    readonly introspection: boolean;
    readonly compile: boolean;
    readonly persistedOnly: boolean;
    /** Whether WebSocket subscribers who may see the same share executions. */
    readonly sharedExecution: boolean;
    /** Set when `persistedOnly` is true. */
    readonly persistedFile: string | undefined;
  };
  readonly limits: {
    readonly depth: number;
    readonly aliases: number;
    readonly cost: number;
    readonly tokens: number;
    readonly batch: number;
    readonly socketsPerActor: number;
    readonly subscriptionsPerSocket: number;
    readonly messagesPerS: number;
  };
  /** Points a minute. */
  readonly rates: {
    readonly store: 'memory' | 'postgresql' | 'redis';
    readonly points: number;
    readonly anonymousPoints: number;
  };
  readonly worker: {
    readonly concurrency: number;
    readonly runLeaseS: number;
    readonly stopGraceS: number;
    readonly eventRetentionDays: number;
  };
  readonly driver: {
    /** Whether deployed applications may run as processes of this host. */
    readonly process: boolean;
    readonly appUserBase: number;
    readonly metricsIntervalS: number;
    readonly appMemoryMb: number;
    readonly maxMemoryMb: number;
    readonly maxMilliCpus: number;
    readonly quotas: {
      readonly maxApplications: number;
      readonly maxConcurrentDeployments: number;
      readonly retainedReleases: number;
      readonly maxDiskMb: number;
    };
    readonly minFreeDiskMb: number;
    /** 0: never measured. */
    readonly diskIntervalS: number;
    readonly docker: {
      readonly mode: 'auto' | 'on' | 'off';
      readonly socketPath: string;
      readonly nodeImage: string;
      readonly appMilliCpus: number;
      readonly buildMemoryMb: number;
      readonly buildMilliCpus: number;
      readonly patienceS: number;
    };
    /** Undefined: there is no instance. */
    readonly ec2:
      | {
          readonly instanceId: string;
          readonly region: string;
          readonly bucket: string;
          /** IPv4; null: as Systems Manager tells it. */
          readonly address: string | null;
          readonly socketPath: string;
          readonly ssmEndpoint: string | undefined;
          readonly s3Endpoint: string | undefined;
        }
      | undefined;
    readonly addressPorts: PortRange;
    readonly instancePorts: PortRange;
    /** Folders of PATH, absolute, in order: where git, npm and the like are. */
    readonly pathDirs: readonly string[];
    /** What builds are given of this server's environment. */
    readonly buildEnvironment: Readonly<Record<string, string>>;
  };
  readonly documents: {
    readonly maxBytes: number;
    readonly maxDocuments: number;
    readonly maxStoredBytes: number;
    readonly maxStoredCells: number;
    readonly maxConcurrentExtractions: number;
    readonly memoryMb: number;
    readonly timeoutS: number;
    /** Another program that reads documents; undefined: there is none. */
    readonly external: { readonly url: string; readonly key: Secret | undefined } | undefined;
  };
  /** Scans of what is deployed. */
  readonly scanning: {
    readonly advisoriesPath: string | undefined;
    readonly advisoryRegistryUrl: string | undefined;
    readonly trivy: 'auto' | 'on' | 'off';
  };
  /** The language model; null: there is none. */
  readonly llm: { readonly url: string; readonly key: Secret; readonly model: string; readonly daily: number } | null;
  readonly outbound: { readonly gitProtocols: readonly GitProtocol[]; readonly allowLoopback: boolean };
  readonly telemetry: {
    readonly otlpEndpoint: string | undefined;
    readonly metricsToken: Secret | undefined;
    /** Whether /metrics is answered without a token. When false and there is no token, it is closed. */
    readonly metricsOpen: boolean;
  };
}
