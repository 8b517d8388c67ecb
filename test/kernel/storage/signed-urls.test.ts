import { describe, expect, it } from 'vitest';
import { createStorageUrls, isContentType, SignatureRefused, type Grant } from '#kernel/storage/signed-urls.ts';

const secret = 's'.repeat(32);
const key = '0190b6d0-0000-7000-8000-00000000abcd';
const other = '0190b6d0-0000-7000-8000-00000000abce';
const start = Date.parse('2030-01-01T00:00:00.000Z');
const at = (afterS: number, key = secret) =>
  createStorageUrls({ secret: key, baseUrl: 'https://sy.example.com', now: () => new Date(start + afterS * 1000) });
const urls = at(0);

const put: Grant = {
  method: 'PUT',
  key,
  sizeBytes: 3,
  sha256: 'a'.repeat(64),
  contentType: 'text/plain; charset=utf-8',
};
const get: Grant = { method: 'GET', key, fileName: 'Übung & "Test".pdf', contentType: 'application/pdf' };
const queryOf = (grant: Grant, expiresInS = 60): URLSearchParams =>
  new URL(urls.sign(grant, expiresInS).url).searchParams;
const changed = (grant: Grant, change: (query: URLSearchParams) => void): URLSearchParams => {
  const query = queryOf(grant);
  change(query);
  return query;
};

function reasonOf(verify: () => unknown): string {
  try {
    verify();
  } catch (error) {
    if (error instanceof SignatureRefused) return error.reason;
    throw error;
  }
  return 'accepted';
}

describe('signed URLs', () => {
  it.each([put, get, { method: 'GET', key } as const, { method: 'GET', key, fileName: 'lone \ud800' } as const])(
    'verify to what was signed: %j',
    (grant) => {
      const signed = urls.sign(grant, 60);
      const url = new URL(signed.url);
      expect(url.origin + url.pathname).toBe(`https://sy.example.com/storage/${key}`);
      expect(signed).toMatchObject({ method: grant.method, expiresAt: new Date(start + 60_000) });
      const fileName = 'fileName' in grant ? grant.fileName?.toWellFormed() : undefined;
      expect(urls.verify(grant.method, key, url.searchParams)).toEqual({
        ...grant,
        ...(fileName === undefined ? {} : { fileName }),
        expiresAt: signed.expiresAt,
      });
    },
  );

  it('expire, and never later than in an hour', () => {
    const query = queryOf(put);
    expect(reasonOf(() => at(59).verify('PUT', key, query))).toBe('accepted');
    expect(reasonOf(() => at(60).verify('PUT', key, query))).toBe('expired');
    expect(reasonOf(() => at(-5).verify('PUT', key, queryOf(put, 3600)))).toBe('accepted');
    // As if the key had also signed something that lives longer.
    expect(reasonOf(() => at(-100).verify('PUT', key, queryOf(put, 3600)))).toBe('invalid');
    for (const bad of [0, -1, 3601, Number.NaN, Infinity]) expect(() => urls.sign(put, bad)).toThrow(RangeError);
  });

  it.each<[string, () => unknown]>([
    ['another key', () => urls.verify('PUT', other, queryOf(put))],
    ['another method', () => urls.verify('GET', key, queryOf(put))],
    ['a download used to upload', () => urls.verify('PUT', key, queryOf(get))],
    ['another secret', () => at(0, 'x'.repeat(32)).verify('PUT', key, queryOf(put))],
    ['no query', () => urls.verify('PUT', key, new URLSearchParams())],
    ...(['expires', 'size', 'sha256', 'type', 'signature'] as const).flatMap((name): [string, () => unknown][] => [
      [
        `no ${name}`,
        () =>
          urls.verify(
            'PUT',
            key,
            changed(put, (query) => query.delete(name)),
          ),
      ],
      [
        `${name} changed`,
        () =>
          urls.verify(
            'PUT',
            key,
            changed(put, (query) => query.set(name, `${query.get(name) ?? ''}0`)),
          ),
      ],
      [
        `${name} twice`,
        () =>
          urls.verify(
            'PUT',
            key,
            changed(put, (query) => query.append(name, query.get(name) ?? '')),
          ),
      ],
    ]),
    [
      'another file name',
      () =>
        urls.verify(
          'GET',
          key,
          changed(get, (query) => query.set('name', 'x.exe')),
        ),
    ],
    [
      'no file name',
      () =>
        urls.verify(
          'GET',
          key,
          changed(get, (query) => query.delete('name')),
        ),
    ],
    [
      'another content type',
      () =>
        urls.verify(
          'GET',
          key,
          changed(get, (query) => query.set('type', 'text/html')),
        ),
    ],
    [
      'an unknown parameter',
      () =>
        urls.verify(
          'GET',
          key,
          changed(get, (query) => query.set('x', '1')),
        ),
    ],
    [
      'a name moved to another parameter',
      () =>
        urls.verify(
          'GET',
          key,
          changed(get, (query) => {
            query.set('sha256', query.get('name') ?? '');
            query.delete('name');
          }),
        ),
    ],
  ])('refuse %s', (_, verify) => {
    expect(reasonOf(verify)).toBe('invalid');
  });

  it('sign only what makes sense', () => {
    for (const grant of [
      { ...put, key: '../x' },
      { ...put, sizeBytes: -1 },
      { ...put, sizeBytes: 1.5 },
      { ...put, sha256: 'A'.repeat(64) },
      { ...put, contentType: 'text/html\r\nX: y' },
      { ...get, contentType: 'nonsense' },
    ]) {
      expect(() => urls.sign(grant, 60)).toThrow(TypeError);
    }
    expect(() => createStorageUrls({ secret: 'short', baseUrl: '' })).toThrow(RangeError);
    expect(isContentType('application/vnd.openxmlformats-officedocument.spreadsheetml.sheet')).toBe(true);
  });
});
