import { AsyncLocalStorage } from 'node:async_hooks';
import { randomFillSync } from 'node:crypto';
import {
  context,
  isSpanContextValid,
  SpanStatusCode,
  trace,
  type SpanContext,
  type TracerProvider,
} from '@opentelemetry/api';

/** A position in a trace: the version 00 fields of a `traceparent`. */
export interface TraceParent {
  /** 32 lower-case hexadecimal digits, not all zero. */
  readonly traceId: string;
  /** 16 lower-case hexadecimal digits, not all zero. */
  readonly spanId: string;
  /** Bit 0: the caller may have recorded its span (sampled). */
  readonly flags: number;
}

const sampled = 1;

/** What is being done. */
interface Here {
  /** Ids travel here even when no SDK is installed, so that logs, jobs and outgoing calls can name the trace. */
  readonly position: TraceParent | undefined;
  /** Of the request or message that is handled. */
  readonly requestId: string | undefined;
}

/** One for all that goes with a request: each store of its own would be a copy of the frame for each request. */
const here = new AsyncLocalStorage<Here>();

/**
 * Reads a `traceparent` header. Undefined when it is not a valid one: then the receiver starts a new trace. A version
 * later than 00 is read by its first four fields.
 *
 * @see https://www.w3.org/TR/trace-context/#traceparent-header
 */
export function parseTraceparent(header: string | undefined): TraceParent | undefined {
  const match = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-.*)?$/.exec(header ?? '');
  const [, version, traceId, spanId, flags, rest] = match ?? [];
  if (!traceId || !spanId || !flags || version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined;
  // Other bits are not defined in version 00 and must not be passed on.
  return { traceId, spanId, flags: Number.parseInt(flags, 16) & sampled };
}

/** Writes a `traceparent` header of version 00. */
export const formatTraceparent = ({ traceId, spanId, flags }: TraceParent): string =>
  `00-${traceId}-${spanId}-${(flags & sampled).toString(16).padStart(2, '0')}`;

const ofSpan = ({ traceId, spanId, traceFlags }: SpanContext): TraceParent => ({ traceId, spanId, flags: traceFlags });

/** Where we are, for an outgoing call, a job or a log line; undefined outside every trace. */
export function currentTraceparent(): string | undefined {
  // With an SDK, spans of instrumentations may be deeper than ours.
  const active = trace.getActiveSpan()?.spanContext();
  const position = active && isSpanContextValid(active) ? ofSpan(active) : here.getStore()?.position;
  return position && formatTraceparent(position);
}

/** Id of what is being handled: errors outside of an operation have no context that tells it. */
export const currentRequestId = (): string | undefined => here.getStore()?.requestId;

/** Handles a request or message; the errors that come of it carry this id. */
export const underRequestId = <T>(requestId: string, fn: () => T): T =>
  here.run({ position: here.getStore()?.position, requestId }, fn);

/** A span that has begun. */
export interface Tracing {
  /** Does something in it. */
  run<T>(fn: () => T): T;
  /** Ends it; an error marks it as failed. */
  end(error?: unknown): void;
}

/**
 * Begins a span: a child of `traceparent`; if that is undefined or not valid, of the current span; if there is none, the
 * root of a new trace.
 *
 * @param name low-cardinality name of the operation, without ids
 * @param requestId of the request that it is about; default: the current one
 */
export function beginTrace(traceparent: string | undefined, name: string, requestId?: string): Tracing {
  const given = traceparent === undefined ? undefined : parseTraceparent(traceparent);
  const parentContext = given
    ? trace.setSpanContext(context.active(), { ...given, traceFlags: given.flags, isRemote: true })
    : context.active();
  const span = trace.getTracer('switchyard').startSpan(name, undefined, parentContext);
  const made = span.spanContext();
  const before = here.getStore();
  const parent = given ?? before?.position;
  // Without an SDK the API hands back the parent's ids, or zeros.
  const own = isSpanContextValid(made) && made.spanId !== parent?.spanId;
  const store: Here = {
    position: own ? ofSpan(made) : new Child(parent),
    requestId: requestId ?? before?.requestId,
  };
  return {
    run: own
      ? (fn) => here.run(store, () => context.with(trace.setSpan(parentContext, span), fn))
      : (fn) => here.run(store, fn),
    end(error) {
      if (error !== undefined) {
        span.setStatus({ code: SpanStatusCode.ERROR });
        if (error instanceof Error) span.recordException(error);
      }
      span.end();
    },
  };
}

/**
 * Runs `fn` in a span of its own, see {@link beginTrace}. The span ends with the promise, and a rejection marks it as
 * failed.
 */
export async function withTrace<T>(
  traceparent: string | undefined,
  name: string,
  fn: () => T | Promise<T>,
): Promise<T> {
  const tracing = beginTrace(traceparent, name);
  try {
    const done = await tracing.run(fn);
    tracing.end();
    return done;
  } catch (error) {
    tracing.end(error ?? new Error(`${name} failed`));
    throw error;
  }
}

/** A position below another one, or the first of a trace, whose ids are made when somebody wants to know them. */
class Child implements TraceParent {
  readonly #parent: TraceParent | undefined;
  #ids: string | undefined;

  constructor(parent: TraceParent | undefined) {
    this.#parent = parent;
  }

  get traceId(): string {
    return this.#parent?.traceId ?? this.#made.slice(0, 32);
  }

  get spanId(): string {
    return this.#made.slice(32);
  }

  get flags(): number {
    return this.#parent?.flags ?? 0;
  }

  get #made(): string {
    return (this.#ids ??= randomIds());
  }
}

const idsBytes = 24;
const random = Buffer.allocUnsafe(100 * idsBytes);
let taken = random.length;

/**
 * 48 hexadecimal digits: of a trace and of a span, neither of which is all zero. Node makes those of many at once.
 * @see https://www.w3.org/TR/trace-context-2/#random-trace-id-flag which asks for the last 14 to be random
 */
function randomIds(): string {
  if (taken === random.length) {
    randomFillSync(random);
    taken = 0;
  }
  const ids = random.toString('hex', taken, (taken += idsBytes));
  return /^0{32}|0{16}$/.test(ids) ? randomIds() : ids;
}

/** The packages of the exporter. They are not dependencies: an installation that exports traces adds them. */
export const exporterPackages = [
  '@opentelemetry/sdk-trace-node',
  '@opentelemetry/exporter-trace-otlp-http',
  '@opentelemetry/resources',
] as const;

/** What is used of those packages. */
interface Sdk {
  readonly NodeTracerProvider: new (options: object) => TracerProvider & {
    register(): void;
    shutdown(): Promise<void>;
  };
  readonly BatchSpanProcessor: new (exporter: object) => object;
  readonly OTLPTraceExporter: new (options: { url: string }) => object;
  readonly resourceFromAttributes: (attributes: Record<string, string>) => object;
}

export interface TelemetryOptions {
  /** Base URL of an OTLP/HTTP collector; undefined: nothing is exported. */
  readonly endpoint: string | undefined;
  /** Resource attribute `service.name`. */
  readonly serviceName?: string;
  /** Resource attribute `service.version`. */
  readonly serviceVersion?: string;
  /** Loads a package; for tests. */
  readonly load?: (name: string) => Promise<unknown>;
}

/**
 * Starts the export of traces when there is an endpoint. Call it once, before anything is traced.
 *
 * @returns a function that exports what is left and stops
 * @throws Error naming the packages that are not installed
 * @see https://opentelemetry.io/docs/specs/otel/protocol/exporter/
 */
export async function startTelemetry(options: TelemetryOptions): Promise<() => Promise<void>> {
  const { endpoint, serviceName = 'switchyard', serviceVersion, load = (name: string) => import(name) } = options;
  if (endpoint === undefined) return async () => {};
  const sdk = await loadSdk(load);
  const provider = new sdk.NodeTracerProvider({
    resource: sdk.resourceFromAttributes({
      'service.name': serviceName,
      ...(serviceVersion === undefined ? {} : { 'service.version': serviceVersion }),
    }),
    spanProcessors: [new sdk.BatchSpanProcessor(new sdk.OTLPTraceExporter({ url: `${endpoint}/v1/traces` }))],
  });
  provider.register();
  return async () => {
    await provider.shutdown();
    trace.disable();
    context.disable();
  };
}

async function loadSdk(load: (name: string) => Promise<unknown>): Promise<Sdk> {
  const loaded = await Promise.allSettled(exporterPackages.map(load));
  const missing = exporterPackages.filter((_, i) => loaded[i]?.status === 'rejected');
  if (missing.length > 0) {
    const causes = loaded.flatMap((one): unknown[] => (one.status === 'rejected' ? [one.reason] : []));
    throw new Error(`OTEL_EXPORTER_OTLP_ENDPOINT is set, but these packages cannot be loaded: ${missing.join(', ')}`, {
      cause: new AggregateError(causes),
    });
  }
  const all: unknown = Object.assign({}, ...loaded.map((one) => (one.status === 'fulfilled' ? one.value : {})));
  if (isSdk(all)) return all;
  throw new Error(`OTEL_EXPORTER_OTLP_ENDPOINT is set, but ${exporterPackages.join(', ')} are of an unknown version`);
}

const isSdk = (all: unknown): all is Sdk =>
  typeof all === 'object' &&
  all !== null &&
  ['NodeTracerProvider', 'BatchSpanProcessor', 'OTLPTraceExporter', 'resourceFromAttributes'].every(
    (name) => typeof Reflect.get(all, name) === 'function',
  );
