// Sends the lines of a file and a query to the service and prints its reply. Needs a C++17 compiler and libcurl:
//
//   apt-get install g++ libcurl4-openssl-dev
//   g++ -std=c++17 -O2 examples/rerank.cpp -lcurl -o rerank
//   ./rerank http://127.0.0.1:8080 "how do bees find home" examples/notes.txt
//
// RERANK_KEY is the API key, if the service needs one. Read the reply with the JSON library of your project.
#include <curl/curl.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

// A text as a JSON string. The text has to be UTF-8.
std::string json_string(const std::string& text) {
    std::string quoted = "\"";
    for (unsigned char byte : text) {
        if (byte == '"' || byte == '\\') {
            quoted += '\\';
            quoted += static_cast<char>(byte);
        } else if (byte < 0x20) {
            char escaped[7];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", byte);
            quoted += escaped;
        } else {
            quoted += static_cast<char>(byte);
        }
    }
    return quoted + "\"";
}

// A client for one service. It keeps its connection open between calls; use one for each thread.
class Reranker {
  public:
    explicit Reranker(const std::string& url) : curl_(curl_easy_init(), curl_easy_cleanup), headers_(nullptr, curl_slist_free_all) {
        if (!curl_) throw std::runtime_error("libcurl could not be initialised");
        add_header("Content-Type: application/json");
        if (const char* key = std::getenv("RERANK_KEY")) add_header(std::string("Authorization: Bearer ") + key);
        curl_easy_setopt(curl_.get(), CURLOPT_URL, (url + "/rerank").c_str());
        curl_easy_setopt(curl_.get(), CURLOPT_HTTPHEADER, headers_.get());
        curl_easy_setopt(curl_.get(), CURLOPT_CONNECTTIMEOUT, 5L);
        curl_easy_setopt(curl_.get(), CURLOPT_TIMEOUT, 60L);
        curl_easy_setopt(curl_.get(), CURLOPT_WRITEFUNCTION, append);
    }

    // The reply, as JSON.
    std::string rerank(const std::string& query, const std::vector<std::string>& texts) {
        std::string body = "{\"query\":" + json_string(query) + ",\"top_k\":0,\"documents\":[";
        for (const std::string& text : texts) body += (body.back() == '[' ? "{\"content\":" : ",{\"content\":") + json_string(text) + "}";
        body += "]}";
        for (int attempt = 1;; ++attempt) {
            std::string reply;
            curl_easy_setopt(curl_.get(), CURLOPT_POSTFIELDS, body.c_str());
            curl_easy_setopt(curl_.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
            curl_easy_setopt(curl_.get(), CURLOPT_WRITEDATA, &reply);
            const CURLcode code = curl_easy_perform(curl_.get());
            if (code != CURLE_OK) throw std::runtime_error(curl_easy_strerror(code));
            long status = 0;
            curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &status);
            if (status == 200) return reply;
            // A service that is busy or starting says when to come back, in seconds.
            curl_off_t retry_after_s = 0;
            curl_easy_getinfo(curl_.get(), CURLINFO_RETRY_AFTER, &retry_after_s);
            if (retry_after_s == 0 || attempt == attempts) throw std::runtime_error(std::to_string(status) + ": " + reply);
            std::this_thread::sleep_for(std::chrono::seconds(retry_after_s));
        }
    }

  private:
    static constexpr int attempts = 5;

    static size_t append(char* data, size_t, size_t size, void* reply) {
        static_cast<std::string*>(reply)->append(data, size);
        return size;
    }

    void add_header(const std::string& line) {
        curl_slist* longer = curl_slist_append(headers_.get(), line.c_str());
        if (!longer) throw std::bad_alloc();
        headers_.release();
        headers_.reset(longer);
    }

    std::unique_ptr<CURL, void (*)(CURL*)> curl_;
    std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers_;
};

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "usage: rerank URL QUERY FILE\n";
        return 2;
    }
    std::ifstream file(arguments[3]);
    if (!file) {
        std::cerr << "rerank: " << arguments[3] << " can't be read\n";
        return 1;
    }
    std::vector<std::string> texts;
    for (std::string line; std::getline(file, line);) {
        if (!line.empty()) texts.push_back(line);
    }
    try {
        std::cout << Reranker(arguments[1]).rerank(arguments[2], texts) << "\n";
    } catch (const std::exception& error) {
        std::cerr << "rerank: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
