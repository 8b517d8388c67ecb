import type { Metric, Registry } from 'prom-client';

// Counters and histograms of what every request does. Those of prom-client make a text of the labels each time, which is
// most of what they cost; these are asked for a child once, or by the values themselves. They are scraped like others.

interface Described<Label extends string> {
  readonly name: string;
  readonly help: string;
  readonly labelNames: readonly Label[];
  readonly registers: readonly Registry[];
}

/** A value as prom-client writes it. */
interface Sample {
  readonly metricName: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

abstract class Tallies<Label extends string, Child> {
  readonly name: string;
  readonly help: string;
  readonly aggregator = 'sum';
  abstract readonly type: 'counter' | 'histogram';
  readonly #labelNames: readonly Label[];
  readonly #children = new Map<string, { readonly labels: Readonly<Record<string, string>>; readonly child: Child }>();

  constructor({ name, help, labelNames, registers }: Described<Label>) {
    this.name = name;
    this.help = help;
    this.#labelNames = labelNames;
    for (const registry of registers) registry.registerMetric(this as unknown as Metric);
  }

  /** What counts for these labels, whose values are given in the order of their names. */
  of(...values: readonly string[]): Child {
    const key = values.length === 1 ? (values[0] ?? '') : values.join('\0');
    let found = this.#children.get(key);
    if (!found) {
      if (values.length !== this.#labelNames.length) throw new Error(`${this.name} has other labels`);
      const labels = Object.fromEntries(this.#labelNames.map((name, i) => [name, values[i] ?? '']));
      this.#children.set(key, (found = { labels, child: this.made() }));
    }
    return found.child;
  }

  reset(): void {
    this.#children.clear();
  }

  /** What prom-client asks a metric for when it is scraped. */
  async get(): Promise<{ name: string; help: string; type: string; aggregator: string; values: Sample[] }> {
    const { name, help, type, aggregator } = this;
    const values = [...this.#children.values()].flatMap(({ labels, child }) => this.samples(labels, child));
    return { name, help, type, aggregator, values };
  }

  protected abstract made(): Child;
  protected abstract samples(labels: Sample['labels'], child: Child): Sample[];
}

class Count {
  value = 0;

  inc(): void {
    this.value++;
  }
}

export class TallyCounter<Label extends string> extends Tallies<Label, Count> {
  readonly type = 'counter';

  protected made(): Count {
    return new Count();
  }

  protected samples(labels: Sample['labels'], { value }: Count): Sample[] {
    return [{ metricName: this.name, labels, value }];
  }
}

class Distribution {
  sum = 0;
  count = 0;
  readonly bounds: readonly number[];
  /** How many are in each bucket, and not in one before. */
  readonly buckets: number[];

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.buckets = bounds.map(() => 0);
  }

  observe(value: number): void {
    this.sum += value;
    this.count++;
    for (let i = 0; i < this.bounds.length; i++) {
      if (value <= (this.bounds[i] ?? 0)) {
        this.buckets[i] = (this.buckets[i] ?? 0) + 1;
        return;
      }
    }
  }
}

export class TallyHistogram<Label extends string> extends Tallies<Label, Distribution> {
  readonly type = 'histogram';
  readonly #bounds: readonly number[];

  /** @param described.buckets upper bounds, ascending */
  constructor(described: Described<Label> & { readonly buckets: readonly number[] }) {
    super(described);
    this.#bounds = described.buckets;
  }

  protected made(): Distribution {
    return new Distribution(this.#bounds);
  }

  protected samples(labels: Sample['labels'], { sum, count, bounds, buckets }: Distribution): Sample[] {
    let below = 0;
    const bucket = (le: number | '+Inf', value: number): Sample => ({
      metricName: `${this.name}_bucket`,
      labels: { le, ...labels },
      value,
    });
    return [
      ...bounds.map((le, i) => bucket(le, (below += buckets[i] ?? 0))),
      bucket('+Inf', count),
      { metricName: `${this.name}_sum`, labels, value: sum },
      { metricName: `${this.name}_count`, labels, value: count },
    ];
  }
}
