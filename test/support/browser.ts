/** A browser without a screen: follows redirects one by one, with cookies by host and path. */
export class Browser {
  readonly #jar = new Map<string, { value: string; path: string; attributes: string }>();

  /** Cookies for an address, by name. */
  cookies(url: string): Record<string, string> {
    const { host, pathname } = new URL(url);
    return Object.fromEntries(
      [...this.#jar]
        .filter(([key, { path }]) => key.startsWith(`${host} `) && (pathname === path || pathname.startsWith(path)))
        .map(([key, { value }]) => [key.slice(host.length + 1), value]),
    );
  }

  attributes(url: string, name: string): string | undefined {
    return this.#jar.get(`${new URL(url).host} ${name}`)?.attributes;
  }

  set(url: string, name: string, value: string, path = '/'): void {
    this.#jar.set(`${new URL(url).host} ${name}`, { value, path, attributes: '' });
  }

  /** One request, no redirect. */
  async get(url: string, init: { method?: string; body?: URLSearchParams; headers?: Record<string, string> } = {}) {
    const cookies = Object.entries(this.cookies(url)).map(([name, value]) => `${name}=${value}`);
    const response = await fetch(url, {
      ...init,
      redirect: 'manual',
      headers: { ...(cookies.length > 0 ? { cookie: cookies.join('; ') } : {}), ...init.headers },
    });
    for (const header of response.headers.getSetCookie()) {
      const [pair = '', ...attributes] = header.split(';').map((part) => part.trim());
      const at = pair.indexOf('=');
      const [name, value] = [pair.slice(0, at), pair.slice(at + 1)];
      const path = attributes.find((one) => /^path=/i.test(one))?.slice(5) ?? '/';
      const key = `${new URL(url).host} ${name}`;
      const expired = attributes.some((one) => /^max-age=0$/i.test(one) || /^expires=Thu, 01 Jan 1970/i.test(one));
      if (expired || value === '') this.#jar.delete(key);
      else this.#jar.set(key, { value, path, attributes: attributes.join('; ') });
    }
    const location = response.headers.get('location');
    return {
      status: response.status,
      location: location === null ? null : new URL(location, url).href,
      text: await response.text(),
      headers: response.headers,
      url,
    };
  }

  /** Goes on until somebody answers with something else, or the next address begins with `until`. */
  async follow(url: string, until?: string): Promise<Awaited<ReturnType<Browser['get']>>> {
    let at = url;
    for (let hop = 0; hop < 20; hop++) {
      const answer = await this.get(at);
      if (answer.location === null || (until !== undefined && answer.location.startsWith(until))) return answer;
      at = answer.location;
    }
    throw new Error(`too many redirects from ${url}`);
  }
}
