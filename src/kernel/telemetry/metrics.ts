import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { TallyCounter, TallyHistogram } from './tallies.ts';

/** State of a connection pool, in connections; `waiting` in callers that have none yet. */
export interface PoolState {
  readonly total: number;
  readonly idle: number;
  readonly waiting: number;
}

/** Upper bounds of buckets, in seconds. */
const requestBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const runBuckets = [0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14_400];

/**
 * The process's metrics in a registry of their own, so that several apps can live in one process. Label values come from
 * closed sets (route patterns, run kinds, event types), never from a request: no ids, no names.
 *
 * @param options.processMetrics whether to measure the process too: CPU, memory, event loop, garbage collection. Twice in
 *   one process is twice the work, so tests leave it out.
 * @see https://prometheus.io/docs/practices/naming/
 */
export function createMetrics(options: { readonly processMetrics?: boolean } = {}) {
  const registry = new Registry();
  const registers = [registry];
  if (options.processMetrics ?? true) collectDefaultMetrics({ register: registry });

  let readPool: (() => PoolState) | undefined;

  return {
    registry,

    /** Requests answered, by route pattern (`/graphql`, `/storage/:id`) and status code. */
    httpRequests: new TallyCounter({
      name: 'switchyard_http_requests_total',
      help: 'HTTP requests answered.',
      labelNames: ['route', 'status'],
      registers,
    }),
    /** Seconds from the request's head to the end of its answer. */
    httpRequestSeconds: new TallyHistogram({
      name: 'switchyard_http_request_seconds',
      help: 'Time from the head of a request to the end of its answer.',
      labelNames: ['route'],
      buckets: requestBuckets,
      registers,
    }),
    /** Seconds of an operation: type query, mutation or subscription; outcome ok, refused (domain error) or error. */
    graphqlOperationSeconds: new TallyHistogram({
      name: 'switchyard_graphql_operation_seconds',
      help: 'Time to execute a GraphQL operation; of a subscription, until its first answer.',
      labelNames: ['type', 'outcome'],
      buckets: requestBuckets,
      registers,
    }),
    /** Queries by how they were executed: compiled into one statement, ordinary, or refused (compiled, but then ordinary). */
    graphqlCompiled: new TallyCounter({
      name: 'switchyard_graphql_compiled_total',
      help: 'Queries by whether they were executed as one compiled statement.',
      labelNames: ['outcome'],
      registers,
    }),
    /** Committed changes of a run's status; `from` is NONE for a new run. */
    runTransitions: new Counter({
      name: 'switchyard_run_transitions_total',
      help: 'Changes of the status of a run.',
      labelNames: ['kind', 'from', 'to'],
      registers,
    }),
    /** Seconds from a run's first start to its terminal status. */
    runSeconds: new Histogram({
      name: 'switchyard_run_seconds',
      help: 'Time from the first start of a run to its terminal status.',
      labelNames: ['kind', 'status'],
      buckets: runBuckets,
      registers,
    }),
    /** Seconds of one attempt at a step. */
    stepSeconds: new Histogram({
      name: 'switchyard_run_step_seconds',
      help: 'Time of one attempt at a step of a run.',
      labelNames: ['kind', 'step', 'outcome'],
      buckets: runBuckets,
      registers,
    }),
    /** Events committed to the log. */
    eventsAppended: new Counter({
      name: 'switchyard_events_appended_total',
      help: 'Events committed to the log.',
      labelNames: ['type'],
      registers,
    }),
    /** Subscriptions that are open in this process. */
    liveSubscribers: new Gauge({
      name: 'switchyard_live_subscribers',
      help: 'Open subscriptions.',
      registers,
    }),
    /** Seconds from an event's commit time to its delivery to the hub's subscribers. */
    liveLagSeconds: new Histogram({
      name: 'switchyard_live_lag_seconds',
      help: 'Time from the creation of an event to its delivery to subscribers.',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15],
      registers,
    }),
    /** Wake-ups received, by source: notify, redis, local, poll (the backstop found what no wake-up told). */
    wakeUps: new Counter({
      name: 'switchyard_wake_ups_total',
      help: 'Wake-ups for the live hub.',
      labelNames: ['source'],
      registers,
    }),
    /** Jobs ended, by queue and outcome (completed, failed). */
    jobs: new Counter({
      name: 'switchyard_jobs_total',
      help: 'Jobs ended.',
      labelNames: ['queue', 'outcome'],
      registers,
    }),
    /** Seconds of one job. */
    jobSeconds: new Histogram({
      name: 'switchyard_job_seconds',
      help: 'Time of one job.',
      labelNames: ['queue'],
      buckets: runBuckets,
      registers,
    }),
    /** Read when scraped, see `observeDatabasePool`. State is total, idle or waiting. */
    databasePool: new Gauge({
      name: 'switchyard_database_pool',
      help: 'Connections of the database pool, and callers that wait for one.',
      labelNames: ['state'],
      registers,
      collect() {
        if (!readPool) return;
        const { total, idle, waiting } = readPool();
        this.set({ state: 'total' }, total);
        this.set({ state: 'idle' }, idle);
        this.set({ state: 'waiting' }, waiting);
      },
    }),
    /** Says where the state of the pool is read at each scrape. */
    observeDatabasePool(read: () => PoolState): void {
      readPool = read;
    },
  };
}

export type Metrics = ReturnType<typeof createMetrics>;
